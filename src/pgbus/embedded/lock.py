"""Locks that the kernel takes back when their holder dies: ``flock`` on files.

A child made by ``fork`` shares its parent's open files, and so its locks. Here it closes them at
once: it must neither keep a lock alive that its parent gave back, nor give back its parent's.
"""

import fcntl
import os
import time
import weakref
from pathlib import Path

_PAUSE = 0.01


class FileLock:
    """A lock on one file: *free* until one of the ``take`` calls succeeds, then *held*.

    Raises OSError wherever the file cannot be opened or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock through this object."""
        return self._fd is not None

    def try_take(self, *, shared: bool = False) -> bool:
        """Take the lock if nobody is in the way, and return whether it is held now."""
        if self._fd is not None:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._fd = fd
        _open.add(self)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return False
        except BaseException:
            self.close()
            raise
        return True

    def take(self, deadline: float, *, shared: bool = False) -> bool:
        """Take the lock, waiting until ``deadline`` (monotonic); return whether it is held now."""
        while not self.try_take(shared=shared):
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def release(self) -> None:
        """Give the lock back, also on behalf of forked children that share it; idempotent."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        """Let go of the lock; whoever shares the open file (a forked child) keeps it."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def is_held(path: Path) -> bool:
    """Return whether any process holds ``path`` exclusively."""
    if not path.exists():
        return False
    probe = FileLock(path)
    free = probe.try_take(shared=True)
    probe.release()
    return not free


# Written by FileLock, read by the child of a fork.
_open: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_open):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)
