"""Broken buses: each lacks one thing that keeps a promise, and the checker must catch it.

Those of the database are made in the installed functions of a throw-away database, those of the
client in the processes of a run. Nothing in the package knows of them.
"""

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from pgbus import Reject
from pgbus.core.verdict import Bury
from pgbus.errors import PgbusError
from pgbus.store.leases import Take, Taken
from pgbus.store.settle import LaneSettlement, settle
from pgbus.threads import link, pool
from pgbus.threads.batch import BatchWorker, _Part
from pgbus.threads.delivery import Portion
from pgbus.threads.engine import Engine
from pgbus.threads.fetcher import Fetcher
from pgbus.threads.session import Session
from pgbus.threads.settler import Settler
from pgbus.threads.subscription import Subscription
from tests.torture.schedule import KINDS, POSTMASTER

Connection = psycopg.Connection[Any]
Edit = tuple[str, str]
"""A regular expression that matches a function's text once, and what takes the place of that."""


@dataclass(frozen=True)
class Mutant:
    """One broken bus, and how it is made."""

    what: str
    templates: tuple[tuple[str, tuple[Edit, ...]], ...] = ()
    """Edits of ``pgbus.template``, by the template's name."""
    functions: tuple[tuple[str, tuple[Edit, ...]], ...] = ()
    """Edits of functions of the schema ``pgbus``."""
    statement: str = ""
    patch: Callable[[], None] | None = None
    """Breaks the client in the process that calls it."""
    found_by_chance: bool = True
    """Whether a random run of a minute finds it, too."""
    mix: Mapping[str, int] = field(default_factory=dict)
    """The faults of a run that finds it by chance, where they are others than usual."""


def break_sql(connection: Connection, name: str | None) -> None:
    """Break a database in which the subscriptions are declared and not yet watched."""
    if name is None:
        return
    mutant = MUTANTS[name]
    for template, edits in mutant.templates:
        [(body,)] = connection.execute(
            "select body from pgbus.template where name = %s", (template,)
        ).fetchall()
        connection.execute(
            "update pgbus.template set body = %s where name = %s", (edited(body, edits), template)
        )
    if mutant.templates:
        connection.execute("select pgbus.generate(id) from pgbus.subscription")
    for function, edits in mutant.functions:
        [(body,)] = connection.execute(
            "select pg_get_functiondef(%s::regproc)", (f"pgbus.{function}",)
        ).fetchall()
        connection.execute(edited(body, edits).encode())
    if mutant.statement:
        connection.execute(mutant.statement.encode())


def break_python(name: str | None) -> None:
    """Break this process, for good."""
    patch = MUTANTS[name].patch if name is not None else None
    if patch is not None:
        patch()


def edited(text: str, edits: Sequence[Edit]) -> str:
    """Return the text with each edit made.

    Raises:
        LookupError: what is to be replaced is not there: the bus has changed, and the mutant must.
    """
    for pattern, after in edits:
        found = list(re.finditer(pattern, text, re.DOTALL))
        if len(found) != 1:
            raise LookupError(f"found {len(found)} times, not once: {pattern}")
        start, end = found[0].span()
        text = text[:start] + after + text[end:]
    return text


# The client's.


def _handed_over(change: Callable[[Fetcher, Take, Taken], Taken]) -> None:
    original = Fetcher._hand_over

    def hand_over(
        self: Fetcher,
        subscription: Subscription,
        session: Session,
        order: Take,
        taken: Taken,
        *,
        stroll: bool,
    ) -> bool:
        changed = change(self, order, taken)
        return original(self, subscription, session, order, changed, stroll=stroll)

    setattr(Fetcher, "_hand_over", hand_over)  # noqa: B010 - a method is no attribute to assign


def _acknowledge_first() -> None:
    def acknowledge(self: Fetcher, order: Take, taken: Taken) -> Taken:
        lanes = [
            LaneSettlement(
                chunk.lane,
                chunk.token,
                release=False,
                done=[message.msg_id for message in chunk.messages],
            )
            for chunk in taken.chunks
        ]
        if lanes:
            self._link.run(lambda: settle(order.name, order.worker, lanes))
        return taken

    _handed_over(acknowledge)


def _keep_empty() -> None:
    _handed_over(lambda _, order, taken: replace(taken, empty=[]))


def _never_doubt() -> None:
    def doubt(self: Session, token: int) -> None: ...

    setattr(Session, "doubt", doubt)  # noqa: B010


def _stop_beating() -> None:
    original = Engine.stop

    def stop(self: Engine, timeout: float) -> None:
        setattr(self._keeper, "_beat", lambda: None)  # noqa: B010
        original(self, timeout)

    setattr(Engine, "stop", stop)  # noqa: B010


def _bury_in_two() -> None:
    original = Settler._store

    def store(self: Settler, connection: Connection, group: Sequence[Portion]) -> set[int]:
        dead = [letter for one in group for letter in one.lane.dead]
        if not dead:
            return original(self, connection, group)
        name = group[0].subscription.name
        copied = _copies(connection, name, [msg_id for msg_id, _ in dead])
        for one in group:
            one.lane.done = [*one.lane.done, *(msg_id for msg_id, _ in one.lane.dead)]
            one.lane.dead = []
        owned = original(self, connection, group)
        if os.environ.get(DIE_BETWEEN):
            os.kill(os.getpid(), signal.SIGKILL)
        with connection.cursor() as cursor:
            insert = sql.SQL(
                "insert into pgmq.{} (vt, message, headers) "
                "values (clock_timestamp(), %s::jsonb, %s::jsonb)"
            )
            cursor.executemany(insert.format(sql.Identifier(f"q_{name}_dlq")), copied)
        return owned

    setattr(Settler, "_store", store)  # noqa: B010


def _settle_regardless() -> None:
    setattr(BatchWorker, "_drafts", lambda self, parts: parts)  # noqa: B010


def _go_on_behind() -> None:
    original = BatchWorker._enter

    def enter(self: BatchWorker, *arguments: Any) -> bool:
        original(self, *arguments)
        return True

    setattr(BatchWorker, "_enter", enter)  # noqa: B010
    setattr(BatchWorker, "_stops", lambda self, error: False)  # noqa: B010


def _reject_all() -> None:
    original = BatchWorker._try_together

    def try_together(self: BatchWorker, parts: Sequence[_Part]) -> bool:
        if not original(self, parts):
            for part in parts:
                self._enter(part.portion, part.deliveries[0], Bury(), Reject("one of them is bad"))
                self._flush(part.portion, release=True)
        return True

    setattr(BatchWorker, "_try_together", try_together)  # noqa: B010


def _say_no() -> None:
    def as_store_error(error: psycopg.Error, *, outcome_unknown: bool = False) -> PgbusError:
        return link.as_store_error(error)

    setattr(pool, "as_store_error", as_store_error)  # noqa: B010


DIE_BETWEEN = "TORTURE_DIE_BETWEEN"
"""Set in the environment, the process dies where ``bury in two`` is at its weakest."""


def _copies(connection: Connection, name: str, ids: list[int]) -> list[tuple[str, str]]:
    statement = sql.SQL(
        "select message::text, jsonb_build_object('pgbus-dead', jsonb_build_object("
        "'msg_id', msg_id, 'lane', 0, 'headers', headers))::text from pgmq.{} "
        "where msg_id = any (%s)"
    )
    return connection.execute(statement.format(sql.Identifier(f"q_{name}")), (ids,)).fetchall()


# All of them.

_LOCK_OF_LEASES = r"    places := array\(.*?(?=    if owned is null then)"
_NOBODY_OWNS = r"    if owned is null then.*?end if;\n"
_BY_SNAPSHOT = """    owned := array(
        select x.lane from unnest(p_lanes, p_tokens) as x(lane, token)
        join pgbus.lease l on l.subscription = :id and l.lane = x.lane
            and l.worker = p_worker and l.token = x.token);
"""
_RELEASE = """    delete from pgbus.lease l
        using unnest(p_lanes, p_tokens, p_release) as x(lane, token, release)
    where l.subscription = :id and l.lane = x.lane and l.worker = p_worker and l.token = x.token
        and x.release;
    return owned;
"""
_STASH = """(select w.lane from walk w
            where w.visited >= 5000 or w.found >= p_lanes order by w.visited desc limit 1
        ),
        (select array_agg(m) from pgmq.:queue m where :lane in (select g.lane from got g))
        into won, suspects, last_lane, stash
"""

MUTANTS: dict[str, Mutant] = {
    "unfenced-acknowledgement": Mutant(
        "settle does what it is told, whoever holds the lanes",
        templates=(
            ("settle", ((_NOBODY_OWNS, "    owned := p_lanes;\n"),)),
            ("acknowledge", ((r"    if not found then.*?end if;\n", ""),)),
        ),
    ),
    "acknowledgement-by-snapshot": Mutant(
        "settle looks at the leases without locking them, and lets go of them last",
        templates=(
            ("settle", ((_LOCK_OF_LEASES, _BY_SNAPSHOT), (r"    return owned;\n", _RELEASE))),
        ),
        found_by_chance=False,
    ),
    "single-snapshot-take": Mutant(
        "the messages that a take returns are read by the statement that wins the leases",
        templates=(
            (
                "take",
                (
                    (r"(?<=use_column\ndeclare\n)", "    stash pgmq.:queue[];\n"),
                    (r"\(\s*select w\.lane from walk w.*?last_lane\n", _STASH),
                    (r"(?<=m\.headers from )pgmq\.:queue m", "unnest(stash) m"),
                ),
            ),
        ),
        found_by_chance=False,
    ),
    "acknowledgement-before-handler": Mutant(
        "events are deleted as they are taken", patch=_acknowledge_first
    ),
    "dead-letter-in-two": Mutant(
        "one transaction deletes the event, another stores the dead letter",
        patch=_bury_in_two,
        found_by_chance=False,
    ),
    "death-by-clock": Mutant(
        "leases are taken from whoever seems to be late, without declaring it dead",
        functions=(
            (
                "reap",
                (
                    (r" for update skip locked", ""),
                    (r"update pgbus\.worker w set dead_at = [^;]*;", ""),
                ),
            ),
        ),
    ),
    "no-heartbeat-at-shutdown": Mutant(
        "the keeper stops first, not last", patch=_stop_beating, found_by_chance=False
    ),
    "empty-lease-kept": Mutant(
        "lanes that turn out to have nothing are not given back", patch=_keep_empty
    ),
    "lost-take-kept": Mutant(
        "what a take won whose reply was lost is not given back",
        patch=_never_doubt,
        # Whatever ends a worker gives back its leases, after all.
        mix={**dict.fromkeys(KINDS, 0), "lost reply": 1, "cut": 1, POSTMASTER: 0},
    ),
    "unfenced-transaction": Mutant(
        "a handler's transaction commits, whoever holds the lane",
        templates=(("acknowledge", ((r"raise exception 'the lease was lost'.*?;", "return;"),)),),
        found_by_chance=False,  # the reaper ends the sessions of the dead, and mostly saves it
    ),
    "batch-without-its-transaction": Mutant(
        "what a batch's transaction was to settle is settled though it did not commit",
        patch=_settle_regardless,
        found_by_chance=False,  # a connection must break between a handler's return and its commit
    ),
    "batch-goes-on": Mutant(
        "what follows a retried event of its key in a batch is acknowledged", patch=_go_on_behind
    ),
    "batch-rejected-whole": Mutant(
        "where a batch's handler raises, every key's first event is given up", patch=_reject_all
    ),
    "unparked": Mutant(
        "a take hands out what a dead letter parks",
        functions=(
            (
                "generate",
                (
                    (r"':parked', case when s\.park", "':parked', case when false"),
                    (r"':still_parked', case when s\.park", "':still_parked', case when false"),
                ),
            ),
        ),
        statement="select pgbus.generate(id) from pgbus.subscription",
        found_by_chance=False,  # keys are parked for a moment only
    ),
    "redriven-to-the-end": Mutant(
        "what is redriven gets a new number",
        functions=(
            (
                "redrive",
                (
                    (
                        r"select \(g\.dead ->> ''msg_id''\)::bigint,",
                        "select nextval(''pgmq.q_' || p_name || '_msg_id_seq''),",
                    ),
                ),
            ),
        ),
    ),
    "heartbeat-of-the-dead": Mutant(
        "a worker that was declared dead goes on with its heartbeats",
        statement="""
            create or replace function pgbus.heartbeat(p_worker bigint) returns boolean
            language sql begin atomic
                update pgbus.worker set expires_at = clock_timestamp() + lease
                where id = p_worker returning true;
            end
            """,
    ),
    "unknown-is-no": Mutant(
        "a publish whose reply was lost is said not to be stored",
        patch=_say_no,
        found_by_chance=False,  # few replies are lost by those who publish without ids
    ),
    "forgotten-ids": Mutant(
        "an id that was published is published again",
        functions=(
            ("publish", ((r"and g\.id not in \(select f\.id from fresh f\)", "and false"),)),
        ),
    ),
    "stale-routes": Mutant(
        "what publishers remember of routes outlives a new binding",
        statement="drop trigger pgbus_bindings_changed on pgmq.topic_bindings",
    ),
}
