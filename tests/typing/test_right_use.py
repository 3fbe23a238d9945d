"""Both type checkers accept right use of the public names, and know what comes out of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.typing import public_types
from tests.typing.checkers import CHECKERS, ROOT, Report, pyright


@pytest.mark.parametrize("check", CHECKERS)
def test_right_use_is_accepted(check: Callable[[Path], Report], tmp_path: Path) -> None:
    file = Path(shutil.copy(public_types.__file__, tmp_path))
    report = check(file)
    assert not report.lines, report.text


def test_the_examples_are_right(tmp_path: Path) -> None:
    """Of mypy, the ordinary run sees to it."""
    folder = tmp_path / "examples"
    folder.symlink_to(ROOT / "examples")
    report = pyright(folder)
    assert not report.lines, report.text
