"""Setting a connection up, and whether a pooler in transaction mode may lie in between.

Behind such a pooler a statement runs in whatever session is free. What belongs to a session
(LISTEN, session locks, settings, prepared statements) would be somebody else's at the next one.
"""

from typing import Any

import psycopg

from pgbus.errors import ConfigurationError

# A pooler hands out a cancellation key of its own: the process id in it is not the session's.
_CONFIGURE = """
select pg_backend_pid() = %(pid)s,
    current_setting('default_transaction_isolation'),
    case when pg_backend_pid() = %(pid)s then
        set_config('default_transaction_isolation', 'read committed', false)
        || set_config('TimeZone', 'UTC', false)
        -- What a statement was given must not come to light with its error, here or in the log.
        || set_config('log_parameter_max_length_on_error', '0', false)
        || set_config('idle_in_transaction_session_timeout',
            coalesce(%(idle)s, current_setting('idle_in_transaction_session_timeout')), false)
        -- (Other systems may not have what it takes.)
        || case when version() ~ 'linux' then
            set_config('client_connection_check_interval', %(look)s, false) else '' end
    end
"""
IDLE = 10.0
"""Seconds that a transaction of the bus's own may wait for its next statement. Where a process is
stopped between two of them, nobody waits any longer for what it has locked."""
LOOK = 5.0
"""Seconds between two looks of a backend that is busy, or waits for a lock, whether its client is
still there. What a client has given up waiting for must not be executed much later, and take leases
of which nobody knows, nor take up the server's connections meanwhile."""


def configure(connection: "psycopg.Connection[Any]", *, may_idle: bool = True) -> None:
    """Set a new connection up, whatever the server's or the role's defaults are.

    Parameters:
        may_idle: whether its transactions may wait for their next statement as long as the server
            lets them; else for :data:`IDLE`, and then the server ends the session.

    Raises:
        ConfigurationError: through a pooler nothing can be set up, and the default is not READ
            COMMITTED.
        psycopg.Error: the connection broke.
    """
    parameters = {
        "pid": connection.info.backend_pid,
        "idle": None if may_idle else f"{1000 * IDLE:.0f}ms",
        "look": f"{1000 * LOOK:.0f}ms",
    }
    row = connection.execute(_CONFIGURE, parameters, prepare=False).fetchone()
    assert row is not None
    direct, isolation, _ = row
    if direct:
        return
    if isolation != "read committed":
        raise ConfigurationError(
            f"the role's default_transaction_isolation is {isolation!r}: behind a pooler, use "
            "'alter role … set default_transaction_isolation = \"read committed\"'"
        )
    connection.prepare_threshold = None


def is_pooled(connection: "psycopg.Connection[Any]") -> bool:
    """Return whether a pooler lies between a connection that was set up and its server."""
    return connection.prepare_threshold is None


def check_same_database(one: "psycopg.Connection[Any]", direct: "psycopg.Connection[Any]") -> None:
    """Raise unless a direct connection leads where another one does.

    Raises:
        ConfigurationError: it leads elsewhere, or through a pooler.
        psycopg.Error: one of them broke.
    """
    if is_pooled(direct):
        raise ConfigurationError("direct_dsn leads through a pooler: give the server's own address")
    where = "select current_database(), pg_postmaster_start_time()"
    if one.execute(where).fetchone() != direct.execute(where).fetchone():
        raise ConfigurationError("direct_dsn leads to another database than dsn")
