"""A subscriber before a long backlog holds what it has fetched in advance, and no more."""

import os
import threading
from collections import defaultdict
from pathlib import Path

import psycopg
import pytest

from pgbus import Bus, Context
from pgbus.core import walk
from tests.threads.asleep import sleepers
from tests.waiting import eventually

FIRST, LAST = 2_000, 12_000
"""How many events were handled when memory is measured."""
MOST_GROWTH = 32 << 20
MOST_IN_HAND = 20_000


def memory() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("events", "keys"),
    [
        pytest.param(100_000, 10_000, id="a hundred thousand"),
        pytest.param(1_000_000, 100_000, id="a million", marks=pytest.mark.slow),
    ],
)
def test_memory_stays_flat(bus: Bus, bus_dsn: str, events: int, keys: int) -> None:
    seen: dict[str | None, list[int]] = defaultdict(list)
    marks: dict[int, int] = {}
    count = 0
    lock, enough = threading.Lock(), threading.Event()

    @bus.subscribe("steps", name="billing", concurrency=2)
    def handle(event: int, context: Context) -> None:
        nonlocal count
        with lock:
            seen[context.key].append(event)
            count += 1
            if count in (FIRST, LAST):
                marks[count] = memory()
        if count >= LAST:
            enough.wait(60)  # the rest stays where it is

    bus.declare()
    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute(
            "insert into pgmq.q_billing (vt, message, headers) "
            "select clock_timestamp(), to_jsonb(n), "
            "jsonb_build_object('x-pgmq-group', 'k' || n %% %s) from generate_series(1, %s) n",
            (keys, events),
        )
        sql.execute("analyze pgmq.q_billing")
    bus.start()
    try:
        eventually(lambda: LAST in marks, timeout=60)
        [status] = bus.status()
    finally:
        enough.set()
        bus.stop(timeout=5)
    assert marks[LAST] - marks[FIRST] < MOST_GROWTH
    assert 0 < status.in_flight < MOST_IN_HAND
    assert status.ready > events - LAST - MOST_IN_HAND
    for numbers in seen.values():
        assert numbers == sorted(set(numbers))


DELAYED = 6_000
"""Keys that a single take does not get past."""
HIGHEST = """
    select 'k' || n from generate_series(1, 1000) n
    order by hashtextextended('k' || n, 0) desc limit 1
"""


def test_many_delayed_keys_do_not_hide_the_one_behind_them(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "STROLL", 1 << 60)  # which would find it by chance
    handled = threading.Event()

    @bus.subscribe("steps", name="billing")
    def handle(event: str) -> None:
        handled.set()

    bus.declare()
    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute(
            "insert into pgmq.q_billing (vt, message, headers) "
            "select clock_timestamp() + interval '1 day', to_jsonb('late'::text), "
            "jsonb_build_object('x-pgmq-group', 'd' || n) from generate_series(1, %s) n",
            (DELAYED,),
        )
        row = sql.execute(HIGHEST).fetchone()
    assert row is not None
    with bus.running():
        bus.publish("steps", "now", key=row[0])
        assert handled.wait(20)
        # Nor keep they the fetcher awake, to which they are more than one look.
        eventually(lambda: sleepers(bus_dsn) == 1)
