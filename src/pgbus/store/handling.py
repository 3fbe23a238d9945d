"""The transaction of a handler: begun before it, settled and committed after it.

Settling and committing are one message to the server, in PostgreSQL's simple protocol, and so is
the beginning of the next transaction where one follows at once: an event costs one round trip
beside the handler's own statements. The server goes through such a message statement by statement,
and stops at the first that fails.
"""

from collections.abc import Sequence
from typing import Any

import psycopg

from pgbus.errors import LeaseLost
from pgbus.store.query import run, run_script
from pgbus.store.settle import LaneSettlement, settle
from pgbus.store.statements import statement

LEASE_LOST = "PB001"
"""The SQLSTATE with which ``acknowledge`` refuses."""


def begin_handling(connection: "psycopg.Connection[Any]") -> None:
    """Begin the transaction of a handler, which is known by being DEFERRABLE.

    Raises:
        psycopg.Error: the connection broke.
    """
    run_script(connection, statement("handling", "begin"))


def roll_back_handling(connection: "psycopg.Connection[Any]") -> None:
    """Roll the transaction of a handler back.

    Raises:
        psycopg.Error: the connection broke.
    """
    run_script(connection, statement("handling", "roll_back"))


def end_handling(
    connection: "psycopg.Connection[Any]",
    name: str,
    worker: int,
    lanes: Sequence[LaneSettlement],
    *,
    more: bool = False,
) -> None:
    """Settle in the transaction of a handler, and commit it.

    One that the handler ended, and perhaps began anew, is an ``InvalidTransactionTermination``.
    Where an error is raised, nothing was committed; but where the connection broke or the statement
    was cancelled, it is unknown.

    Parameters:
        name: the subscription's.
        worker: who leased the lanes.
        more: begin the next transaction at once.

    Raises:
        LeaseLost: another holds one of the lanes.
        psycopg.Error: what the server says.
    """
    end = "commit_and_begin" if more else "commit"
    first = lanes[0]
    if len(lanes) > 1 or len(first.done) != 1 or first.again is not None or first.dead:
        if len(run(connection, settle(name, worker, lanes, handling=True))) < len(lanes):
            raise lease_lost(name)
        run_script(connection, statement("handling", end))
        return
    script = acknowledgement(name, worker, first) + b";\n" + statement("handling", end)
    try:
        run_script(connection, script)
    except psycopg.Error as error:
        if error.sqlstate != LEASE_LOST:
            raise
        raise lease_lost(name) from error


def acknowledgement(name: str, worker: int, lane: LaneSettlement) -> bytes:
    """Return the statement that settles one event that was handled.

    Raises, where it is executed, the SQLSTATE :data:`LEASE_LOST` if another holds the lane.
    """
    return statement("handling", "acknowledge", acknowledge=f"acknowledge_{name}") % (
        worker,
        lane.lane,
        lane.token,
        str(lane.release).encode(),
        lane.done[0],
        str(lane.troubled).encode(),
    )


def lease_lost(subscription: str) -> LeaseLost:
    """Return what is said where the transaction of a handler must not be committed."""
    return LeaseLost(
        f"subscription {subscription}: the lease was lost before the handler's transaction could "
        "commit; it is rolled back, and the event is delivered again"
    )
