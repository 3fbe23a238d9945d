"""Many processes, one server; the last one to leave stops it, however it leaves."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgbus.embedded import EmbeddedServer
from tests.embedded.processes import Seen, User

NewUser = Callable[[], User]
NewServer = Callable[[], EmbeddedServer]
PID = "SELECT pg_postmaster_start_time()::text"


def test_processes_share_one_server_until_the_last_leaves(new_user: NewUser, seen: Seen) -> None:
    first, second = new_user(), new_user()
    assert first.do("dsn") == second.do("dsn")
    started = first.do("execute", PID)
    first.do("leave")
    assert second.do("execute", PID) == started
    second.do("leave")
    seen.await_end()
    assert not list((seen.rooms.folder / "run").iterdir())
    assert seen.processes() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_last_user_is_killed(new_user: NewUser, seen: Seen, number: int) -> None:
    first, last = new_user(), new_user()
    first.do("dsn")
    last.do("dsn")
    first.signal(number)
    assert last.do("execute", "SELECT 1") == [[1]]
    last.signal(number)
    seen.await_end()


def test_eight_processes_join_at_once(new_user: NewUser, seen: Seen) -> None:
    users = [new_user() for _ in range(8)]
    for user in users:
        user.ask("execute", PID)
    assert len({str(user.answer()) for user in users}) == 1


def test_threads_join_and_leave_at_once(new_server: NewServer, seen: Seen) -> None:
    servers = [new_server() for _ in range(8)]

    def use(server: EmbeddedServer) -> bool:
        for _ in range(4):
            with psycopg.connect(server.dsn()) as connection:
                connection.execute("SELECT 1")
            server.leave()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, servers))
    seen.await_end()


def test_one_of_two_in_a_process_leaves(new_server: NewServer, seen: Seen) -> None:
    first, second = new_server(), new_server()
    dsn = first.dsn()
    assert second.dsn() == dsn
    first.leave()
    first.leave()
    postmaster = seen.postmaster()
    with psycopg.connect(second.dsn()) as connection:
        connection.execute("SELECT 1")
    assert postmaster.is_running()
    second.leave()
    seen.await_end()


def test_a_server_that_was_forgotten_is_left(
    home: object, new_server: NewServer, seen: Seen
) -> None:
    server = new_server()
    server.dsn()
    forgotten = EmbeddedServer(seen.rooms.folder)
    forgotten.dsn()
    server.leave()
    assert seen.lives
    del forgotten
    seen.await_end()


def test_leaving_before_joining_does_nothing(server: EmbeddedServer, seen: Seen) -> None:
    server.leave()
    assert not seen.rooms.folder.exists()


def test_joining_again_while_the_server_stops(server: EmbeddedServer) -> None:
    for _ in range(5):
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept ()")
        server.leave()
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("TABLE kept")


def test_a_forked_child_neither_stops_the_server_nor_keeps_it(
    new_user: NewUser, seen: Seen
) -> None:
    user = new_user()
    user.do("dsn")
    user.do("fork_and_leave")
    os.kill(user.do("fork"), signal.SIGKILL)
    started = user.do("execute", PID)
    survivor = user.do("fork")
    try:
        assert user.do("execute", PID) == started
        user.signal(signal.SIGKILL)
        seen.await_end()
    finally:
        os.kill(survivor, signal.SIGKILL)


def test_it_warns_once_in_a_process(new_user: NewUser) -> None:
    user = new_user()
    user.do("dsn")
    user.do("leave")
    user.do("dsn")
    logged = [line for line in user.end().splitlines() if line.startswith("LOGGED")]
    assert len(logged) == 1
    assert logged[0].startswith("LOGGED pgbus.embedded.server WARNING")
    assert "development and tests" in logged[0]
