"""The harness itself: servers, databases, the proxy, waiting."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.proxy import FaultProxy
from tests.servers import NoServerError, PostgresInstance, Server, choose
from tests.servers.providers import embedded_bin_dir
from tests.waiting import eventually


def connect(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True, connect_timeout=5)


def one(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def is_dead(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def vanished(path: Path) -> bool:
    return not path.exists()


class TestDatabases:
    def test_the_server_answers_with_the_version_asked_for(self, dsn: str, pg_major: int) -> None:
        with connect(dsn) as connection:
            assert connection.info.server_version // 10_000 == pg_major

    @pytest.mark.parametrize("time", [1, 2])
    def test_every_test_gets_an_empty_database(self, dsn: str, time: int) -> None:
        with connect(dsn) as connection:
            connection.execute("CREATE TABLE left_behind ()")

    def test_a_template_is_copied(self, new_database: Callable[..., str]) -> None:
        template = new_database()
        with connect(template) as connection:
            connection.execute("CREATE TABLE orders AS SELECT 42 AS id")
        with connect(new_database(template)) as connection:
            assert one(connection, "SELECT id FROM orders") == 42

    def test_a_database_in_use_is_dropped(self, server: Server) -> None:
        dsn = server.create_database()
        with connect(dsn) as connection:
            server.drop_database(dsn)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")


class TestInstance:
    def test_stop_and_kill_keep_the_data(self, own_server: Callable[..., PostgresInstance]) -> None:
        instance = own_server({"work_mem": "1234kB"})
        dsn = instance.create_database()
        with connect(dsn) as connection:
            connection.execute("CREATE TABLE kept ()")
        instance.restart()
        with connect(dsn) as connection:
            assert one(connection, "SHOW work_mem") == "1234kB"
            instance.kill9()
            assert not instance.running
            # Seen: an orphaned backend still answers a query that reaches it before the news.
            eventually(lambda: is_dead(connection), message="the backend outlived its postmaster")
        instance.start()
        with connect(dsn) as connection:
            connection.execute("TABLE kept")

    def test_a_durable_cluster_is_on_disk(
        self, own_server: Callable[..., PostgresInstance]
    ) -> None:
        instance = own_server(durable=True)
        assert instance.data.is_relative_to(instance.folder)
        with connect(instance.dsn()) as connection:
            assert one(connection, "SHOW fsync") == "on"

    def test_a_server_killed_from_outside_is_started_again(
        self, own_server: Callable[..., PostgresInstance]
    ) -> None:
        instance = own_server()
        os.kill(instance.pid, signal.SIGKILL)
        eventually(lambda: not instance.running)
        instance.start()
        connect(instance.dsn()).close()

    def test_tcp_asks_for_the_password(self, own_server: Callable[..., PostgresInstance]) -> None:
        dsn = own_server(tcp=True).dsn()
        connect(dsn).close()
        with pytest.raises(psycopg.OperationalError, match="password"):
            connect(psycopg.conninfo.make_conninfo(dsn, password="wrong"))

    def test_the_socket_is_closed_to_others(
        self, own_server: Callable[..., PostgresInstance]
    ) -> None:
        instance = own_server()
        assert instance.folder.stat().st_mode & 0o077 == 0
        with connect(instance.dsn()) as connection:
            assert one(connection, "SHOW listen_addresses") == ""

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")
    def test_root_without_namespaces_runs_it_as_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.servers.account.NAMESPACE", ("false",))
        with PostgresInstance(embedded_bin_dir()) as instance:
            connect(instance.dsn()).close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")
    def test_programs_that_nobody_cannot_read_are_copied(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        package = embedded_bin_dir().parents[1]
        for found in (package, package.with_name(f"{package.name}.libs")):
            (closed / found.name).mkdir()
        subprocess.run(["cp", "-r", package / "pginstall18", closed / package.name], check=True)
        libraries = package.with_name(f"{package.name}.libs")
        subprocess.run(["cp", "-rT", libraries, closed / libraries.name], check=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.servers.account.NAMESPACE", ("false",))
            with PostgresInstance(closed / package.name / "pginstall18" / "bin") as instance:
                connect(instance.dsn()).close()

    def test_a_killed_test_process_leaves_nothing(self) -> None:
        program = (
            "import sys, time\n"
            "from tests.servers import PostgresInstance, choose\n"
            "server = choose('embedded')\n"
            "server.start()\n"
            "print(server.folder, server.data, server.pid, sep='|', flush=True)\n"
            "time.sleep(60)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout is not None
        *folders, pid = child.stdout.readline().decode().strip().split("|")
        child.kill()
        child.communicate()
        for folder in folders:
            eventually(partial(vanished, Path(folder)), message=f"{folder} stayed")
        eventually(partial(vanished, Path("/proc", pid)), message=f"{pid} still runs")


class TestProviders:
    def test_the_dsn_provider_wants_a_dsn(self) -> None:
        with pytest.raises(NoServerError, match="PGBUS_TEST_DSN"):
            choose("dsn")

    def test_an_existing_server_makes_databases(self, server: Server) -> None:
        existing = choose("dsn", dsn=server.dsn())
        existing.start()
        dsn = existing.create_database()
        connect(dsn).close()
        existing.drop_database(dsn)

    def test_a_wrong_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(NoServerError, match="no postgres in"):
            choose("system", bin_dir=tmp_path)


class TestProxy:
    def test_it_relays(self, proxy: FaultProxy) -> None:
        with connect(proxy.dsn) as connection:
            assert one(connection, "SELECT length(repeat('x', 1000000))") == 1_000_000
            assert proxy.connections == 1
        eventually(lambda: proxy.connections == 0)

    def test_it_relays_tcp(self, own_server: Callable[..., PostgresInstance]) -> None:
        with FaultProxy(own_server(tcp=True).dsn()) as proxy:
            assert conninfo_to_dict(proxy.dsn)["host"] == "127.0.0.1"
            with connect(proxy.dsn) as connection:
                assert one(connection, "SELECT 1") == 1

    def test_it_cuts(self, proxy: FaultProxy) -> None:
        with connect(proxy.dsn) as connection:
            proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        connect(proxy.dsn).close()

    def test_it_refuses(self, proxy: FaultProxy) -> None:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            connect(proxy.dsn)
        proxy.accept()
        connect(proxy.dsn).close()

    def test_it_stalls_and_resumes(self, proxy: FaultProxy) -> None:
        answered = threading.Event()
        with connect(proxy.dsn) as connection:

            def ask() -> None:
                connection.execute("SELECT 1")
                answered.set()

            proxy.stall()
            asking = threading.Thread(target=ask)
            asking.start()
            assert not answered.wait(0.2)
            proxy.resume()
            assert answered.wait(5)
            asking.join()

    def test_it_cuts_while_stalled(self, proxy: FaultProxy) -> None:
        with connect(proxy.dsn) as connection:
            proxy.stall()
            proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
            assert proxy.connections == 0

    def test_it_delays(self, proxy: FaultProxy) -> None:
        with connect(proxy.dsn) as connection:
            proxy.delay = 0.1
            started = os.times().elapsed
            connection.execute("SELECT 1")
            assert os.times().elapsed - started >= 0.19  # the clock has ticks of 10 ms

    def test_it_loses_the_reply_to_a_commit(self, proxy: FaultProxy, dsn: str) -> None:
        with psycopg.connect(proxy.dsn) as connection:
            connection.execute("CREATE TABLE committed ()")
            proxy.lose_reply(b"COMMIT")
            with pytest.raises(psycopg.OperationalError):
                connection.commit()
        assert proxy.lost_replies == 1
        with connect(dsn) as connection:
            connection.execute("TABLE committed")

    def test_the_servers_last_words_arrive(self, proxy: FaultProxy, dsn: str) -> None:
        with connect(proxy.dsn) as victim, connect(dsn) as killer:
            killer.execute("SELECT pg_terminate_backend(%s)", [victim.info.backend_pid])
            with pytest.raises(psycopg.errors.AdminShutdown):
                victim.execute("SELECT 1")

    def test_it_ends_with_open_and_stalled_connections(self, dsn: str) -> None:
        with FaultProxy(dsn) as proxy:
            connection = connect(proxy.dsn)
            proxy.stall()
        with connection, pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


class TestWaiting:
    def test_it_returns_what_came_true(self) -> None:
        answers = iter([0, 0, 7])
        assert eventually(lambda: next(answers)) == 7

    def test_it_fails_with_the_message(self) -> None:
        with pytest.raises(AssertionError, match="no order arrived"):
            eventually(list, timeout=0.05, message="no order arrived")


def test_real_data_is_found_or_skipped(shared_data: Path) -> None:
    assert (shared_data / "repo-changes.jsonl.gz").is_file()


def test_the_developers_settings_are_gone() -> None:
    assert not [name for name in os.environ if name.startswith("PG")]
