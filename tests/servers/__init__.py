"""Where the PostgreSQL of the tests comes from.

``server``
    What a test may ask of any PostgreSQL: a DSN, a fresh database, its version.
``account``
    How PostgreSQL is run when the tests run as root, which it refuses.
``instance``
    A throw-away cluster of our own from a folder of binaries: start, stop, kill, restart.
``providers``
    The four choices of ``pytest --pg``: embedded, system, docker, dsn.
``matrix``
    The suite on every major version, one after the other.

The harness starts its servers itself and does not use ``pgbus.embedded``: that is under test.
"""

from tests.servers.instance import PostgresInstance
from tests.servers.providers import choose
from tests.servers.server import NoServerError, Server

__all__ = ["NoServerError", "PostgresInstance", "Server", "choose"]
