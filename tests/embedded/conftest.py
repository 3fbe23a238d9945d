"""Folders for servers, and processes that use them; nothing of either stays behind."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from pgbus.embedded import EmbeddedServer
from pgbus.embedded.identity import Identity
from tests.embedded.processes import Seen, User


@pytest.fixture
def parent() -> Iterator[Path]:
    """A short folder, whose name leaves room for a socket. Every server below it must end."""
    folder = Path(tempfile.mkdtemp(prefix="pgbus-test-", dir="/tmp"))
    yield folder
    for lock in list(folder.rglob("server.lock")):
        Seen(lock.parent).clean_up()
    shutil.rmtree(folder)


@pytest.fixture
def home(parent: Path) -> Path:
    """The home of a server, which is not there yet."""
    return parent / "home"


@pytest.fixture
def seen(home: Path) -> Seen:
    """The server in ``home``, seen from outside."""
    return Seen(home)


@pytest.fixture
def new_user(home: Path) -> Iterator[Callable[[], User]]:
    """Start another process that uses the server in ``home``."""
    users: list[User] = []

    def start() -> User:
        users.append(User(home))
        return users[-1]

    yield start
    for user in users:
        user.end()


class Serve(Protocol):
    def __call__(self, home: Path, identity: Identity | None = None) -> EmbeddedServer: ...


@pytest.fixture
def serve(parent: Path) -> Iterator[Serve]:
    """Make servers in this process, of any home below ``parent``."""
    servers: list[EmbeddedServer] = []

    def make(home: Path, identity: Identity | None = None) -> EmbeddedServer:
        servers.append(EmbeddedServer(home, identity=identity, timeout=40))
        return servers[-1]

    yield make
    for server in servers:
        server.leave()


@pytest.fixture
def new_server(home: Path, serve: Serve) -> Callable[[], EmbeddedServer]:
    """Make servers in this process, all of the same ``home``."""
    return lambda: serve(home)


@pytest.fixture
def server(home: Path, serve: Serve) -> EmbeddedServer:
    """A server in ``home``."""
    return serve(home)


@pytest.fixture
def as_root() -> None:
    """Skip the test unless it may become other users."""
    if os.geteuid() != 0:
        pytest.skip("only root can run processes as other users")
