"""Locks that the kernel takes back."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbus.embedded.lock import FileLock, is_held
from tests.embedded.processes import User
from tests.waiting import eventually


@pytest.fixture
def path(parent: Path) -> Path:
    return parent / "some.lock"


def test_one_holds_it_or_several_share_it(path: Path) -> None:
    first, second, third = FileLock(path), FileLock(path), FileLock(path)
    assert first.try_take(shared=True)
    assert second.try_take(shared=True)
    assert not third.try_take()
    first.release()
    second.close()
    assert third.try_take()
    assert third.try_take()
    assert not first.try_take(shared=True)
    assert (first.held, second.held, third.held) == (False, False, True)
    third.release()
    third.release()
    assert not third.held


def test_waiting_ends_at_the_deadline(path: Path) -> None:
    first, second = FileLock(path), FileLock(path)
    assert first.try_take()
    assert not second.take(time.monotonic() + 0.05)
    first.close()
    assert second.take(time.monotonic())


def test_only_an_exclusive_holder_counts(path: Path) -> None:
    assert not is_held(path)
    assert not path.exists()
    lock = FileLock(path)
    assert lock.try_take(shared=True)
    assert not is_held(path)
    lock.close()
    assert lock.try_take()
    assert is_held(path)


def test_a_link_in_its_place_is_not_followed(path: Path, parent: Path) -> None:
    path.symlink_to(parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(path).try_take()
    assert not (parent / "elsewhere").exists()


def test_a_forked_child_does_not_keep_it(path: Path, new_user: Callable[[], User]) -> None:
    user = new_user()
    user.do("lock", str(path))
    child = user.do("fork")
    try:
        assert is_held(path)
        user.do("close_lock")
        # The child closes its own before all else, but it may not have run yet.
        eventually(lambda: not is_held(path))
    finally:
        os.kill(child, signal.SIGKILL)
