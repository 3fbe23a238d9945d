"""Where the server lives, and who else may come near it."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgbus.embedded import EmbeddedServer
from pgbus.embedded.home import default_home, open_home
from pgbus.errors import ConfigurationError, StoreError
from tests.embedded.conftest import Serve
from tests.embedded.processes import Seen, ordinary_python

NOBODY = 65534
KNOCK = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def sockets(dsn: str) -> Path:
    return Path(str(conninfo_to_dict(dsn)["host"]))


def works(server: EmbeddedServer, seen: Seen) -> str:
    """Start, stop and start the server again; return its connection string."""
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE TABLE kept ()")
    server.leave()
    seen.await_end()
    dsn = server.dsn()
    with psycopg.connect(dsn) as connection:
        connection.execute("TABLE kept")
    server.leave()
    seen.await_end()
    return dsn


class TestPaths:
    @pytest.mark.parametrize(
        "name",
        ["it's a ☂", 'a, "b"', "back\\slash %p $HOME =", os.fsdecode(b"\xff\xfe")],
        ids=["plain", "list", "escapes", "no text"],
    )
    def test_odd_names(self, parent: Path, serve: Serve, name: str) -> None:
        works(serve(parent / name), Seen(parent / name))

    @pytest.mark.parametrize("length", [100, 300])
    def test_too_long_for_a_socket(self, parent: Path, serve: Serve, length: int) -> None:
        home = parent / "/".join(["long" * 10] * (length // 40)) / ("x" * 40)
        dsn = works(serve(home), Seen(home))
        assert not sockets(dsn).exists(), "the temporary folder goes with the server"

    def test_a_long_path_has_its_socket_where_nobody_else_may_enter(
        self, parent: Path, serve: Serve
    ) -> None:
        home = parent / ("long" * 30)
        folder = sockets(serve(home).dsn())
        assert not folder.is_relative_to(home)
        assert mode(folder) == 0o700

    def test_control_characters_are_refused(self, parent: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be named"):
            EmbeddedServer(parent / "two\nlines").dsn()

    def test_a_symbolic_link_is_the_same_home(self, home: Path, parent: Path, serve: Serve) -> None:
        link = parent / "link"
        link.symlink_to(home)
        home.mkdir(mode=0o700)
        assert serve(home).dsn() == serve(link).dsn()

    def test_the_home_is_the_users_own_or_that_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, parent: Path
    ) -> None:
        monkeypatch.setenv("PGBUS_HOME", str(parent))
        assert default_home() == parent
        monkeypatch.delenv("PGBUS_HOME")
        monkeypatch.setenv("XDG_DATA_HOME", str(parent / "data"))
        assert default_home() == parent / "data" / "pgbus"

    def test_the_environment_neither_leads_elsewhere_nor_reaches_the_server(
        self, server: EmbeddedServer, seen: Seen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {
            "PGHOST": "nowhere.invalid",
            "PGHOSTADDR": "192.0.2.1",
            "PGPORT": "1",
            "PGUSER": "somebody",
            "PGDATABASE": "something",
            "PGDATA": "/nowhere",
            "LC_ALL": "xx_XX",
            "PASSWORD": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        with psycopg.connect(server.dsn()) as connection:
            row = connection.execute("SELECT current_user, current_database()").fetchone()
        assert row == ("postgres", "postgres")
        assert seen.environment().isdisjoint({"PASSWORD", "LC_ALL", "PGHOST", "PGUSER"})


class TestPermissions:
    def test_of_everything_that_is_made(self, parent: Path, serve: Serve) -> None:
        parent.chmod(0o755)
        home = parent / "a" / "b" / "home"
        dsn = serve(home).dsn()
        assert sockets(dsn) == home / "run"
        for folder in (home, home / "data", home / "run"):
            assert mode(folder) == 0o700
        assert [path for path in home.iterdir() if path.is_file() and mode(path) & 0o077] == []
        assert mode(parent) == 0o755

    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_do_not_depend_on_the_umask(self, parent: Path, serve: Serve, umask: int) -> None:
        home = parent / "home"
        before = os.umask(umask)
        try:
            works(serve(home), Seen(home))
        finally:
            os.umask(before)
        assert mode(home) == 0o700
        assert mode(home / "data") == 0o700

    def test_a_home_that_was_there_keeps_its_mode(self, home: Path, server: EmbeddedServer) -> None:
        home.mkdir()
        home.chmod(0o751)
        server.dsn()
        assert mode(home) == 0o751

    @pytest.mark.parametrize("bits", [0o770, 0o707, 0o1777])
    def test_a_home_that_others_may_write_to_is_refused(self, home: Path, bits: int) -> None:
        home.mkdir()
        home.chmod(bits)
        with pytest.raises(ConfigurationError, match="chmod go-w"):
            EmbeddedServer(home).dsn()
        assert mode(home) == bits
        assert list(home.iterdir()) == []

    @pytest.mark.usefixtures("as_root")
    def test_a_home_of_somebody_else_is_refused(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        os.chown(home, NOBODY, NOBODY)
        with pytest.raises(ConfigurationError, match="belongs to another user"):
            EmbeddedServer(home).dsn()
        assert list(home.iterdir()) == []

    def test_a_home_that_cannot_be_made(self, parent: Path) -> None:
        (parent / "file").write_text("")
        with pytest.raises(StoreError, match="cannot make the folder"):
            open_home(parent / "file" / "home")
        with pytest.raises(StoreError, match="cannot make the folder"):
            open_home(parent / "file")


class TestStrangers:
    def test_nothing_listens_on_the_network(self, server: EmbeddedServer, seen: Seen) -> None:
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert seen.postmaster().net_connections("inet") == []

    @pytest.mark.usefixtures("as_root")
    @pytest.mark.parametrize("name", ["home", "long" * 30])
    def test_another_user_cannot_connect(self, parent: Path, serve: Serve, name: str) -> None:
        parent.chmod(0o755)
        socket = sockets(serve(parent / name).dsn()) / ".s.PGSQL.5432"
        python = ordinary_python(NOBODY)
        if python is None:
            pytest.skip("an ordinary user can run no Python that finds pgbus")
        knock = [python, "-c", KNOCK, str(socket)]
        stranger = subprocess.run(
            knock, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True
        )
        assert "PermissionError" in stranger.stderr
        subprocess.run(knock, check=True)

    @pytest.mark.usefixtures("as_root")
    def test_a_planted_socket_folder_is_avoided(self, home: Path, server: EmbeddedServer) -> None:
        """Somebody else was faster with the name: in the home, and where it was recorded."""
        home.mkdir(mode=0o700)
        (home / "run").mkdir(mode=0o777)
        os.chown(home / "run", NOBODY, NOBODY)
        (home / "sockets").write_text(str(home / "run"))
        folder = sockets(server.dsn())
        assert folder != home / "run"
        assert mode(folder) == 0o700
        assert folder.stat().st_uid == os.geteuid()
        assert (home / "run").stat().st_uid == NOBODY

    def test_a_link_in_place_of_the_socket_folder_is_avoided(
        self, home: Path, parent: Path, server: EmbeddedServer
    ) -> None:
        elsewhere = parent / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        home.mkdir(mode=0o700)
        (home / "run").symlink_to(elsewhere)
        folder = sockets(server.dsn())
        assert folder != home / "run"
        assert not folder.is_symlink()
        assert list(elsewhere.iterdir()) == []

    def test_a_socket_folder_that_was_cleared_away_is_made_again(
        self, parent: Path, serve: Serve
    ) -> None:
        home = parent / ("long" * 30)
        server, seen = serve(home), Seen(home)
        folder = sockets(server.dsn())
        for process in (seen.postmaster(), seen.guardian()):
            process.kill()
        server.leave()
        seen.await_end()
        shutil.rmtree(folder, ignore_errors=True)  # the guardian may have done it before it died
        assert not Path(folder).exists()
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("SELECT 1")


def test_durability_is_postgresqls_own(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn()) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == ("on",)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("SHOW max_connections").fetchone() == ("200",)


def test_this_process_has_no_child_to_bury(server: EmbeddedServer) -> None:
    before = psutil.Process().children()
    server.dsn()
    assert psutil.Process().children() == before
