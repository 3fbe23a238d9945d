"""What was killed, and what it left behind, never stands in the way of the next start."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import psycopg
import pytest

from pgbus.embedded import EmbeddedServer, binaries
from pgbus.embedded.identity import choose
from pgbus.embedded.lock import is_held
from pgbus.errors import StoreError
from tests.embedded.processes import Seen, User, kill
from tests.waiting import eventually

NewUser = Callable[[], User]


def keep(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def kept(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("TABLE kept").fetchone() == (42,)


class TestKilled:
    def test_postmaster(self, server: EmbeddedServer, seen: Seen) -> None:
        keep(server.dsn())
        kill(seen.postmaster())
        assert kept(server.dsn())

    def test_postmaster_with_a_busy_backend(self, server: EmbeddedServer, seen: Seen) -> None:
        """The backend does not look up from its work, so it does not see the postmaster's death."""
        dsn = server.dsn()
        keep(dsn)
        busy = psycopg.connect(dsn, autocommit=True)
        backend = psutil.Process(busy.info.backend_pid)
        busy.pgconn.send_query(b"DO 'BEGIN LOOP END LOOP; END'")
        eventually(lambda: backend.cpu_times().user > 0.05)
        kill(seen.postmaster())
        assert kept(server.dsn())
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
        busy.close()

    def test_postmaster_and_nobody_comes_back(self, server: EmbeddedServer, seen: Seen) -> None:
        server.dsn()
        seen.postmaster().kill()
        seen.await_end()

    def test_a_backend(self, server: EmbeddedServer, seen: Seen) -> None:
        keep(server.dsn())
        with psycopg.connect(server.dsn()) as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            with contextlib.suppress(psycopg.Error):
                connection.execute("SELECT 1")
        assert kept(server.dsn())

    def test_guardian(self, server: EmbeddedServer, seen: Seen) -> None:
        keep(server.dsn())
        kill(seen.guardian())
        assert kept(server.dsn())
        server.leave()
        seen.await_end()

    def test_guardian_and_nobody_comes_back(self, server: EmbeddedServer, seen: Seen) -> None:
        server.dsn()
        seen.guardian().kill()
        seen.await_end()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_guardian_politely(self, server: EmbeddedServer, seen: Seen, number: int) -> None:
        keep(server.dsn())
        guardian = seen.guardian()
        guardian.send_signal(number)
        seen.await_end()
        assert kept(server.dsn())

    def test_everything(self, new_user: NewUser, server: EmbeddedServer, seen: Seen) -> None:
        user = new_user()
        keep(user.do("dsn"))
        guardian, postmaster = seen.guardian(), seen.postmaster()
        for process in (guardian, postmaster, *postmaster.children()):
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with the others
                process.kill()
        user.signal(signal.SIGKILL)
        assert kept(server.dsn())

    def test_the_process_that_starts_it(
        self, new_user: NewUser, server: EmbeddedServer, seen: Seen
    ) -> None:
        user = new_user()
        user.ask("dsn")
        eventually(lambda: is_held(seen.rooms.guardian))
        user.signal(signal.SIGKILL)
        keep(server.dsn())
        assert kept(server.dsn())

    def test_the_guardian_while_it_makes_the_data(
        self, new_user: NewUser, server: EmbeddedServer, seen: Seen
    ) -> None:
        user = new_user()
        user.ask("dsn")
        staging = seen.rooms.folder / "data.new"
        eventually(lambda: staging.exists() or seen.rooms.data.exists())  # or it was too quick
        for process in seen.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # a program of initdb that has ended
                if "guardian.py" in " ".join(process.cmdline()):
                    process.kill()
        assert user.answer() == server.dsn()

    def test_a_server_that_is_just_starting(self, new_user: NewUser, seen: Seen) -> None:
        user = new_user()
        user.ask("dsn")
        pid_file = seen.rooms.data / "postmaster.pid"
        eventually(lambda: pid_file.exists() and "\n" in pid_file.read_text())
        postmaster = seen.postmaster()
        kill(postmaster)
        user.answer()
        # It may have answered just before it was killed: whoever asks again finds it back.
        assert user.do("execute", "SELECT 1") == [[1]]

    def test_a_user_while_it_holds_the_starting_lock(
        self, new_user: NewUser, server: EmbeddedServer, seen: Seen
    ) -> None:
        user = new_user()
        user.ask("dsn")
        # Or it was too quick, and the server runs.
        eventually(lambda: is_held(seen.rooms.start) or is_held(seen.rooms.server))
        user.signal(signal.SIGKILL)
        assert server.dsn()


@contextlib.contextmanager
def living() -> Iterator[int]:
    yield os.getppid()


@contextlib.contextmanager
def zombie() -> Iterator[int]:
    process = subprocess.Popen(["true"])
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    yield process.pid
    process.wait()


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    process = subprocess.Popen(["true"])
    process.wait()
    yield process.pid


class TestLitter:
    @pytest.mark.parametrize("whose", [living, zombie, nobody])
    def test_pid_files_that_name_another_process(
        self,
        server: EmbeddedServer,
        seen: Seen,
        whose: Callable[[], contextlib.AbstractContextManager[int]],
    ) -> None:
        keep(server.dsn())
        lines = (seen.rooms.data / "postmaster.pid").read_text().split("\n")
        server.leave()
        seen.await_end()
        with whose() as pid:
            text = "\n".join([str(pid), *lines[1:]])
            (seen.rooms.data / "postmaster.pid").write_text(text)
            (seen.rooms.folder / "run" / ".s.PGSQL.5432.lock").write_text(text)
            abandoned = socket.socket(socket.AF_UNIX)
            abandoned.bind(str(seen.rooms.folder / "run" / ".s.PGSQL.5432"))
            abandoned.close()
            assert kept(server.dsn())

    def test_a_pid_file_that_says_nothing(self, server: EmbeddedServer, seen: Seen) -> None:
        keep(server.dsn())
        for content in ("", "99999999999999999999\n"):
            server.leave()
            seen.await_end()
            (seen.rooms.data / "postmaster.pid").write_text(content)
            assert kept(server.dsn())

    def test_half_a_data_folder(self, server: EmbeddedServer, seen: Seen) -> None:
        (seen.rooms.folder / "data.new" / "base").mkdir(parents=True)
        seen.rooms.folder.chmod(0o700)
        (seen.rooms.folder / "data.new" / "PG_VERSION").write_text("18\n")
        assert server.dsn()

    def test_a_server_that_was_started_by_hand_is_left_alone(
        self, server: EmbeddedServer, seen: Seen
    ) -> None:
        server.dsn()
        server.leave()
        seen.await_end()
        prefix = choose(seen.rooms.folder).prefix()
        command = [str(binaries() / "postgres"), "-D", str(seen.rooms.data)]
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={seen.rooms.folder}"]
        by_hand = subprocess.Popen([*prefix, *command, *options], stderr=subprocess.DEVNULL)
        try:
            eventually((seen.rooms.folder / ".s.PGSQL.5432").exists)
            with pytest.raises(StoreError, match=r'lock file "postmaster.pid" already exists'):
                server.dsn()
            assert seen.postmaster().pid == by_hand.pid
        finally:
            by_hand.send_signal(signal.SIGINT)
            by_hand.wait(timeout=20)
        assert server.dsn()


class TestTrouble:
    def test_a_server_that_hangs(self, server: EmbeddedServer, seen: Seen) -> None:
        server.dsn()
        joiner = EmbeddedServer(seen.rooms.folder, timeout=0.5)
        postmaster = seen.postmaster()
        postmaster.suspend()
        try:
            begun = time.monotonic()
            with pytest.raises(StoreError, match="did not answer in time"):
                joiner.dsn()
            assert time.monotonic() - begun < 10
        finally:
            postmaster.resume()
        assert joiner.dsn() == server.dsn()
        joiner.leave()

    def test_a_server_without_free_connections_is_there(
        self, server: EmbeddedServer, seen: Seen
    ) -> None:
        server.dsn()
        server.leave()
        seen.await_end()
        with (seen.rooms.data / "postgresql.conf").open("a") as settings:
            settings.write("max_connections = 3\nsuperuser_reserved_connections = 0\n")
            settings.write("max_wal_senders = 0\n")
        dsn = server.dsn()
        with contextlib.ExitStack() as connections:

            def full() -> bool:
                try:
                    connections.enter_context(psycopg.connect(dsn))
                except psycopg.OperationalError as error:
                    return "too many clients" in str(error)
                return False

            eventually(full)
            assert server.dsn() == dsn

    def test_a_long_recovery_is_waited_for(self, server: EmbeddedServer, seen: Seen) -> None:
        """Many dirty pages after the last checkpoint, all to be written again."""
        dsn = server.dsn()
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            connection.execute(
                "CREATE TABLE much AS SELECT repeat(i::text, 99) FROM generate_series(1, 200000) i"
            )
        kill(seen.postmaster())
        assert kept(server.dsn())

    def test_the_log_stays_small(self, server: EmbeddedServer, seen: Seen) -> None:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("SET log_min_messages = log")
            for _ in range(12):
                connection.execute(
                    "DO $$ BEGIN FOR i IN 1..100 LOOP "
                    "RAISE LOG '%', repeat('x', 10000); END LOOP; END $$"
                )
        server.leave()
        seen.await_end()
        assert seen.rooms.log.stat().st_size < 6_000_000

    def test_the_interpreter_is_unknown(
        self, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "")
        with pytest.raises(Exception, match="PGBUS_DSN"):
            server.dsn()
