"""A PostgreSQL of the user's own, for development and tests, from the extra ``pgbus[embedded]``.

One server a home folder, shared by every process that uses it::

    process ── EmbeddedServer ──┐  shared lock on users.lock
    process ── EmbeddedServer ──┤
                                ▼
                            guardian  ── runs ──▶  postgres
                                │
                                └─ waits for the exclusive lock on users.lock: nobody is left

The kernel gives a lock back when its holder dies, however it dies. So the locks are the truth about
who lives; pid files and socket files are only litter to be swept before a start.

Importing this package is cheap, and makes the embedded server what a bus without a DSN uses.
"""

from pgbus.embedded.postgres import binaries, is_installed
from pgbus.embedded.server import EmbeddedServer
from pgbus.threads.server import provide

if is_installed():
    provide(EmbeddedServer)

__all__ = ["EmbeddedServer", "binaries"]
