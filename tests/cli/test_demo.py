"""The demonstration: that it runs, and that its verdict would notice."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence

import psycopg
import pytest

from pgbus import Receipt
from pgbus.core.ids import RANDOM_BYTES, new_event_ids
from pgbus.demo.database import NAME
from pgbus.demo.events import AnyOrderEvent
from pgbus.demo.ledger import Page
from pgbus.demo.shop import invent
from pgbus.demo.staff import BILLING, PATTERNS, WANTED
from pgbus.demo.verdict import Repair, judge
from tests.cli.command import COMMAND, PATIENCE, at_hand, call, environment, pgbus
from tests.unhurried import LIMITS, SECONDS
from tests.waiting import eventually

EVENTS = "300"
UNHURRIED = f"""
from pgbus.cli import main
from pgbus.demo import stage
from pgbus.threads import engine

for limit in {LIMITS}:
    setattr(engine, limit, {SECONDS})
"""
PATIENT = [sys.executable, "-c", f"{UNHURRIED}stage.LEASE = 60.0; main()"]
"""The command, whose demo signs off however slow the machine is, and waits up to a minute for the
lease of another: time to end that."""


def names(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("select name from pgbus.subscription")]


def workers(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select id from pgbus.worker where dead_at is null")
        return [row[0] for row in found]


def set_lease(dsn: str, lease: str) -> None:
    """Let the leases of all workers end so long from now."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "update pgbus.worker set lease = %(lease)s, "
            "expires_at = clock_timestamp() + %(lease)s::interval",
            {"lease": lease},
        )


def test_it_judges_itself_and_leaves_nothing(dsn: str) -> None:
    done = pgbus("demo", "--events", EVENTS, "--json", dsn=dsn, command=PATIENT)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["good"] is True
    assert len(verdict["checks"]) == 5
    assert names(dsn) == []
    assert call(dsn, "schema", "list", "--json").json == []


def test_it_draws_on_a_terminal(dsn: str) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()
    try:
        with at_hand(
            subprocess.Popen(
                [*PATIENT, "demo", "--events", EVENTS],
                env=environment(dsn, {"TERM": "xterm-256color", "LINES": "40"}),
                stdout=theirs,
                stderr=theirs,
            )
        ) as process:
            os.close(theirs)
            while True:
                try:
                    shown += os.read(ours, 1 << 16)
                except OSError:
                    break  # the other side is closed
            assert process.wait(PATIENCE) == 0
    finally:
        os.close(ours)
    text = shown.decode()
    for wanted in ("demo.orders.*", "in flight", "UnknownCurrency", "redriven", "good"):
        assert wanted in text


def test_it_can_be_interrupted_and_killed_and_run_again(dsn: str) -> None:
    def start(command: Sequence[str] = COMMAND, events: str = "20000") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, "demo", "--events", events],
            env=environment(dsn),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    with at_hand(start(PATIENT)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said == b"pgbus: stopped before the verdict; nothing is left behind\n"
    assert names(dsn) == []

    with at_hand(start()) as process:
        eventually(lambda: workers(dsn))
        process.kill()
        process.communicate(timeout=PATIENCE)
    assert sorted(names(dsn)) == sorted(PATTERNS)
    set_lease(dsn, "1 hour")
    with at_hand(start(PATIENT, EVENTS)) as process:
        assert process.stdout is not None
        assert b"waiting for its lease to end" in process.stdout.readline()
        set_lease(dsn, "0")
        shown, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert b"verdict: good" in shown
    assert names(dsn) == []


ON_THE_EMBEDDED = f"""{UNHURRIED}
import sys
from pgbus.threads.server import GivenServer, provide

dsn = sys.argv.pop(1)
provide(lambda: GivenServer(dsn))
main()
"""


def test_it_plays_elsewhere_where_the_embedded_database_is_of_another_release(bus_dsn: str) -> None:
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("update pgbus.migration set checksum = 'another' where number = 2")
    done = subprocess.run(
        [sys.executable, "-c", ON_THE_EMBEDDED, bus_dsn, "demo", "--events", EVENTS],
        env=environment(None),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "which is meant for development and tests" in done.stdout
    assert "migration 0002 (routing)" in done.stdout
    assert "playing in a database of its own" in done.stdout
    assert "verdict: good" in done.stdout
    with psycopg.connect(bus_dsn) as connection:
        found = connection.execute("select from pg_database where datname = %s", [NAME])
        assert found.rowcount == 0
    refused = pgbus("demo", "--events", EVENTS, dsn=bus_dsn)
    assert refused.returncode == 1, "a database of the user's own is no place to play around in"


Ledger = tuple[list[AnyOrderEvent], list[Receipt], dict[str, Page], Repair]


@pytest.fixture
def ledger() -> Ledger:
    """What a run without a fault leaves."""
    story = invent(400, seed=1)
    receipts = [
        Receipt(new_event_ids(1, bytes(RANDOM_BYTES))[0], "demo.orders.x", 3, duplicate=False)
        for _ in story
    ]
    pages = {name: Page(name) for name in PATTERNS}
    poison = None
    for event in story:
        for name, page in pages.items():
            if not isinstance(event, WANTED[name]):
                continue
            if getattr(event, "currency", "EUR") != "EUR" and name == BILLING:
                poison = (event.order_id, event.step)
                with pytest.raises(ValueError), page.delivery(event):
                    raise ValueError
            with page.delivery(event):
                pass
    assert poison is not None
    return story, receipts, pages, Repair([poison], 1, 1)


def broken(ledger: Ledger) -> list[str]:
    return [check.promise for check in judge(*ledger).checks if not check.kept]


@pytest.mark.parametrize("events", [50, 300, 3000])
def test_every_story_has_a_poisoned_event_and_others_behind_it(events: int) -> None:
    for seed in range(100):
        story = invent(events, seed)
        assert len(story) == events
        (poison,) = (one for one in story if getattr(one, "currency", "EUR") != "EUR")
        assert [one.step for one in story if one.order_id == poison.order_id] == [1, 2, 3]


def test_the_verdict_is_good_without_a_fault(ledger: Ledger) -> None:
    assert broken(ledger) == []


def test_the_verdict_sees_what_is_lost(ledger: Ledger) -> None:
    story, _, pages, _ = ledger
    pages["demo_audit"].handled[story[-1].order_id].pop()
    assert broken(ledger) == ["nothing lost"]


def test_the_verdict_sees_disorder(ledger: Ledger) -> None:
    _, _, pages, _ = ledger
    steps = next(steps for steps in pages["demo_audit"].delivered.values() if len(steps) > 1)
    steps.reverse()
    assert broken(ledger) == ["every key in order"]


def test_the_verdict_sees_overlaps(ledger: Ledger) -> None:
    story, _, pages, _ = ledger
    page = pages["demo_audit"]
    with page.delivery(story[0]), page.delivery(story[0]):
        pass
    assert broken(ledger) == ["one at a time"]


def test_the_verdict_wants_failures_and_the_redrive(ledger: Ledger) -> None:
    story, receipts, pages, repair = ledger
    pages[BILLING].failed.clear()
    forgotten = Repair(repair.found, 1, redriven=0)
    changed = (story, receipts, pages, forgotten)
    assert broken(changed) == ["failures retried", "dead letter redriven"]
