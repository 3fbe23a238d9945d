"""Folders for servers, and processes that use them; nothing of either stays behind."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbus.embedded import EmbeddedServer
from tests.embedded.processes import Seen, User


@pytest.fixture
def parent() -> Iterator[Path]:
    """A short folder, whose name leaves room for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="pgbus-test-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(parent: Path) -> Path:
    """The home of a server, which is not there yet."""
    return parent / "home"


@pytest.fixture
def seen(home: Path) -> Iterator[Seen]:
    """The server in ``home``, seen from outside."""
    with watching(home) as seen:
        yield seen


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[Seen]:
    seen = Seen(folder)
    try:
        yield seen
    finally:
        seen.clean_up()


@pytest.fixture
def new_user(home: Path, seen: Seen) -> Iterator[Callable[[], User]]:
    """Start another process that uses the server in ``home``."""
    users: list[User] = []

    def start() -> User:
        users.append(User(home))
        return users[-1]

    yield start
    for user in users:
        user.end()


@pytest.fixture
def new_server(home: Path, seen: Seen) -> Iterator[Callable[[], EmbeddedServer]]:
    """Make servers in this process, all of the same ``home``."""
    servers: list[EmbeddedServer] = []

    def make() -> EmbeddedServer:
        servers.append(EmbeddedServer(home, timeout=40))
        return servers[-1]

    yield make
    for server in servers:
        server.leave()


@pytest.fixture
def server(new_server: Callable[[], EmbeddedServer]) -> EmbeddedServer:
    """A server in ``home``."""
    return new_server()


@pytest.fixture
def as_root() -> None:
    """Skip the test unless it may become other users."""
    if os.geteuid() != 0:
        pytest.skip("only root can run processes as other users")
