"""What a statement read, and how: by PostgreSQL's own counters, and by EXPLAIN."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from pgbus.store.query import fetch
from tests.store.queue import Connection

_COUNTERS = """
select c.relname, c.relkind = 'i',
    coalesce(pg_stat_get_xact_numscans(c.oid), 0),
    coalesce(pg_stat_get_xact_tuples_returned(c.oid), 0)
from pg_class c
where c.relnamespace in ('pgmq'::regnamespace, 'pgbus'::regnamespace) and c.relkind in ('r', 'i')
"""
_EXPLAIN = """
load 'auto_explain';
set auto_explain.log_min_duration = 0;
set auto_explain.log_nested_statements = on;
set auto_explain.log_analyze = on;
set auto_explain.log_format = json;
set auto_explain.log_level = notice
"""


@dataclass
class Reading:
    """Of one transaction, by the names of tables and indexes."""

    scanned: dict[str, int] = field(default_factory=dict)
    """The tables that were read from end to end, and how many rows of them."""
    used: dict[str, int] = field(default_factory=dict)
    """The indexes that were used, and how many of their entries were read."""

    @property
    def total(self) -> int:
        return sum(self.scanned.values()) + sum(self.used.values())


@contextmanager
def metered(connection: Connection) -> Iterator[Reading]:
    """Run a block in a transaction and read its meter at the end."""
    reading = Reading()
    with connection.transaction():
        before = _read(connection)
        yield reading
        for name, (index, scans, rows) in _read(connection).items():
            old_scans, old_rows = before[name][1:]
            if scans > old_scans:
                (reading.used if index else reading.scanned)[name] = rows - old_rows


def _read(connection: Connection) -> dict[str, tuple[bool, int, int]]:
    rows = connection.execute(_COUNTERS).fetchall()
    return {name: (index, scans, tuples) for name, index, scans, tuples in rows}


def buffers(connection: Connection, text: bytes, parameters: Sequence[int]) -> int:
    """Execute a statement; return how many pages it touched."""
    explain = b"explain (analyze, buffers, format json) "
    [(explained,)] = fetch(connection, explain + text, parameters).load(0, 1)
    plan = explained[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


@contextmanager
def explained(connection: Connection) -> Iterator[list[dict[str, Any]]]:
    """Run a block; its list is filled with the nodes of all plans, of those in functions, too."""
    nodes: list[dict[str, Any]] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        _, found, plan = (diagnostic.message_primary or "").partition("plan:")
        if found:
            nodes.extend(_nodes(json.loads(plan)["Plan"]))

    try:
        connection.execute(_EXPLAIN)
    except psycopg.errors.UndefinedFile:
        pytest.skip("this PostgreSQL was built without auto_explain; Debian's has it")
    connection.add_notice_handler(note)
    yield nodes
    connection.remove_notice_handler(note)
    connection.execute("reset auto_explain.log_min_duration")


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from _nodes(part)
