"""As whom PostgreSQL runs. It refuses to run as root, so root needs a way round.

=============  ===========================================================================
``Own``        as the user who starts it; everybody but root
``Namespace``  as root, who looks like *nobody* to the server, in a user namespace of its own
``Account``    as the system user ``pgbus``, where user namespaces are forbidden (as in Docker)
=============  ===========================================================================
"""

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Protocol

from pgbus.embedded.postgres import binaries
from pgbus.errors import StoreError

_TIMEOUT = 30.0
_NOBODY = 65534
_FIRST_PERSON = 1000


class Identity(Protocol):
    """As whom a server runs, and what follows from it. The methods raise StoreError."""

    def folder(self, home: Path) -> Path:
        """Return the folder of the server of ``home``, which is made if it is not there."""

    def owner(self) -> tuple[int, int]:
        """Return the user and the group that the server's files belong to."""

    def programs(self) -> Path:
        """Return the folder of PostgreSQL's programs that this identity can run."""

    def prefix(self) -> list[str]:
        """Return what to put before a command so that it runs under this identity."""


class Own:
    """The server runs as whoever starts it."""

    def folder(self, home: Path) -> Path:
        """Return ``home`` itself."""
        return home

    def owner(self) -> tuple[int, int]:
        """Return this process's user and group."""
        return os.geteuid(), os.getegid()

    def programs(self) -> Path:
        """Return the programs where they were installed."""
        return binaries()

    def prefix(self) -> list[str]:
        """Return nothing: no change is needed."""
        return []


class Namespace(Own):
    """The server runs as whoever starts it, but believes to be *nobody*.

    It keeps the starter's rights to files and has none of root's privileges. This also serves users
    whom the system has no name for (``docker run --user 1234``), which initdb insists on.
    """

    def prefix(self) -> list[str]:
        """Return the command that enters the namespace."""
        return ["unshare", "--user", f"--map-user={_NOBODY}", "--"]

    def works(self, home: Path) -> bool:
        """Return whether the system allows it, with files where they are."""
        check = 'test -w "$1" && "$2/postgres" -V'
        return _succeeds([*self.prefix(), "sh", "-c", check, "sh", home, binaries()])


class Account:
    """The server runs as a system user of its own, with its data below /var/lib.

    The data cannot stay in a folder that only root may enter. The home keeps a ``place`` file with
    the name of the folder that has it instead. The name is random and not made from the home's: a
    home that was removed does not come back with its old data, and one that was moved keeps it.

    Parameters:
        store: where the data folders and the copies of the programs are kept.
        name: the system user, which is made if there is none.
        copy: copy the programs even if the user can run them where they are.
    """

    def __init__(
        self, store: Path = Path("/var/lib/pgbus"), *, name: str = "pgbus", copy: bool = False
    ) -> None:
        self._store = store
        self._name = name
        self._copy = copy

    def folder(self, home: Path) -> Path:
        """Return the folder below the store that ``home`` refers to."""
        _, group = self.owner()
        try:
            name = _remembered(home / "place", secrets.token_hex(8))
            folder = self._store / Path(name).name
            if not self._store.is_dir():
                self._store.mkdir(parents=True, exist_ok=True)
                self._store.chmod(0o755)
            if not folder.is_dir():
                # Root's, so that the server cannot plant links among the locks that root opens.
                made = Path(tempfile.mkdtemp(prefix="new-", dir=self._store))
                os.chown(made, 0, group)
                made.chmod(0o710)
                _rename_once(made, folder)
        except OSError as error:
            raise StoreError(
                f"cannot make a data folder for PostgreSQL below {self._store}"
            ) from error
        return folder

    def owner(self) -> tuple[int, int]:
        """Return the system user's ids; the user is made if there is none."""
        for attempt in range(3):
            try:
                found = pwd.getpwnam(self._name)
            except KeyError:
                self._add(attempt)
            else:
                if not 0 < found.pw_uid < _FIRST_PERSON:
                    raise StoreError(
                        f"the user {self._name} is not a system user, so PostgreSQL's data would "
                        "not be safe with it: allow user namespaces, or do not run as root"
                    )
                return found.pw_uid, found.pw_gid
        raise StoreError(
            f"PostgreSQL cannot run as root here, and the system user {self._name} for it could "
            f"not be made: add it (useradd --system {self._name}), allow user namespaces, "
            "or do not run as root"
        )

    def _add(self, attempt: int) -> None:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        if (
            not _succeeds(["useradd", *options, "--shell", "/bin/false", self._name])
            and not attempt
        ):
            _succeeds(["adduser", "-S", "-D", "-H", "-h", "/nonexistent", self._name])

    def programs(self) -> Path:
        """Return PostgreSQL's programs, from a copy where the user cannot reach the originals."""
        original = binaries()
        uid, gid = self.owner()
        if not self._copy and _succeeds([original / "postgres", "-V"], user=uid, group=gid):
            return original
        return self._copied(original)

    def _copied(self, original: Path) -> Path:
        installation = original.parent
        package = installation.parent
        digest = hashlib.sha256((original / "postgres").read_bytes()).hexdigest()[:12]
        copy = self._store / f"programs-{digest}"
        programs = copy / package.name / installation.name / "bin"
        try:
            if not programs.is_dir():
                made = Path(tempfile.mkdtemp(prefix="new-", dir=self._store))
                _copy(installation, made / package.name / installation.name)
                libraries = package.with_name(f"{package.name}.libs")
                if libraries.is_dir():
                    _copy(libraries, made / libraries.name)
                _let_everybody_run(made)
                _rename_once(made, copy)
        except (OSError, shutil.Error) as error:
            raise StoreError(f"cannot copy PostgreSQL's programs to {copy}") from error
        return programs

    def prefix(self) -> list[str]:
        """Return nothing: the guardian changes the user itself."""
        return []


def choose(home: Path) -> Identity:
    """Return as whom the server of ``home`` runs: as before, or as well as the system allows.

    Raises:
        StoreError: the data was made in a way that the system no longer allows.
    """
    if os.geteuid() != 0:
        return Own() if _has_name(os.geteuid()) else Namespace()
    if (home / "place").exists():
        return Account()
    namespace = Namespace()
    if (home / "data").exists():
        if not namespace.works(home):
            raise StoreError(
                f"the data in {home} was made in a user namespace, which this system forbids: "
                "allow it, or set $PGBUS_HOME to a new folder"
            )
        return namespace
    return namespace if namespace.works(home) else Account()


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _succeeds(command: list[str | Path], user: int | None = None, group: int | None = None) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            cwd="/",
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _remembered(path: Path, proposal: str) -> str:
    """Return what ``path`` says; whoever comes first writes ``proposal`` into it, whole."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{proposal}")
        draft.write_text(proposal, encoding="ascii")
        draft.chmod(0o600)
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text(encoding="ascii")


def _rename_once(made: Path, final: Path) -> None:
    """Move a finished folder to its place, unless another process was faster."""
    try:
        made.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(made, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "*.a"), symlinks=True)


def _let_everybody_run(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            runnable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runnable else 0o644)
