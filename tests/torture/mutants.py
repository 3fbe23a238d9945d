"""Broken buses: each lacks one thing that keeps a promise, and the checker must catch it.

Those of the database are made in the installed functions of a throw-away database, those of the
client in the processes of a run (see ``patches``). Nothing in the package knows of them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.torture import patches
from tests.torture.patches import Put
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
    patch: Callable[[Put], None] | None = None
    """Breaks the client in the process that calls it, by the setter that it is given."""
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


def break_python(name: str | None, put: Put = setattr) -> None:
    """Break this process: for good, unless the setter remembers what it replaces."""
    patch = MUTANTS[name].patch if name is not None else None
    if patch is not None:
        patch(put)


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
_STASH = """,
        (select array_agg(m) from pgmq.:queue m where :lane in (select g.lane from got g))
        into won, suspects, seen, contested, live, stash
"""
_THEFT = """    delete from pgbus.lease l using pgbus.worker w
    where l.subscription = :id and w.id = l.worker and w.id <> p_worker and w.dead_at is null
        and w.expires_at < clock_timestamp();
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
                    (r"\n        into won, suspects, seen, contested, live\n", _STASH),
                    (r"(?<=m\.headers from )pgmq\.:queue m", "unnest(stash) m"),
                ),
            ),
        ),
        found_by_chance=False,
    ),
    "acknowledgement-before-handler": Mutant(
        "events are deleted as they are taken", patch=patches.acknowledge_first
    ),
    "dead-letter-in-two": Mutant(
        "one transaction deletes the event, another stores the dead letter",
        patch=patches.bury_in_two,
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
    "theft-by-clock": Mutant(
        "a take grants itself the leases of whoever seems to be late",
        templates=(("take", ((r"(?=    with recursive walk as)", _THEFT),)),),
    ),
    "no-heartbeat-at-shutdown": Mutant(
        "the keeper stops first, not last", patch=patches.stop_beating, found_by_chance=False
    ),
    "empty-lease-kept": Mutant(
        "lanes that turn out to have nothing are not given back", patch=patches.keep_empty
    ),
    "lost-take-kept": Mutant(
        "what a take won whose reply was lost is not given back",
        patch=patches.never_doubt,
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
        patch=patches.settle_regardless,
        found_by_chance=False,  # a connection must break between a handler's return and its commit
    ),
    "batch-goes-on": Mutant(
        "what follows a retried event of its key in a batch is acknowledged",
        patch=patches.go_on_behind,
    ),
    "batch-rejected-whole": Mutant(
        "where a batch's handler raises, every key's first event is given up",
        patch=patches.reject_all,
    ),
    "unparked": Mutant(
        "a take hands out what a dead letter parks",
        functions=(("filled", ((r"case when p_subscription\.park", "case when false"),)),),
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
        patch=patches.say_no,
        found_by_chance=False,  # few replies are lost by those who publish without ids
    ),
    "forgotten-ids": Mutant(
        "an id that was published is published again",
        functions=(
            ("publish", ((r"and g\.id not in \(select f\.id from fresh f\)", "and false"),)),
            ("remember", ((r"return found", "return true"),)),
        ),
    ),
    "stale-routes": Mutant(
        "what publishers remember of routes outlives a new binding",
        statement="drop trigger pgbus_bindings_changed on pgmq.topic_bindings",
    ),
}
