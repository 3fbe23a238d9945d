"""The stage: sets up, lets the shop and its staff play, repairs, judges, and clears away."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import msgspec
from rich.console import Console

from pgbus import Bus, DeadLetter, IncompatibleDatabase, StoreError
from pgbus.demo.database import own_database
from pgbus.demo.events import OrderEvent
from pgbus.demo.ledger import Mark, News
from pgbus.demo.shop import Shop, invent
from pgbus.demo.staff import BILLING, PATTERNS, Staff
from pgbus.demo.verdict import Repair, Verdict, as_object, judge
from pgbus.demo.view import Scene, show, show_verdict
from pgbus.store import workers
from pgbus.store.query import run
from pgbus.threads.link import connect, translated
from pgbus.threads.signals import Latch, ended_by_signals

LEASE = 5.0
"""Seconds: a demonstration that was killed holds the next one up for as long."""
PATIENCE = 60.0
"""Seconds that the staff may take once the shop has closed."""
LOOK = 0.5
"""Seconds that the parked order can be looked at before it is repaired."""


class Interrupted(Exception):
    """The user has seen enough."""


@dataclass
class Play:
    """What happens while the view looks on, in a thread of its own.

    ``over`` is set at the end, when either ``repair`` or ``error`` is there, or by who has seen
    enough.
    """

    bus: Bus
    shop: Shop
    staff: Staff
    news: News
    stop: threading.Event
    over: Latch = field(default_factory=Latch)
    repair: Repair | None = None
    error: Exception | None = None

    def perform(self) -> None:
        """Play from the first order to the last redriven event."""
        try:
            with self.bus.running(timeout=5):
                self.shop.start()
                try:
                    self.shop.join()
                    if self.shop.error is not None:
                        raise self.shop.error
                    self.repair = self._repair()
                finally:
                    self.stop.set()
                    self.shop.join()
        except Exception as error:
            self.error = error
        finally:
            self.over.set()

    def _repair(self) -> Repair:
        """Wait until all but the poisoned order is done, repair that, and put it back."""
        self._settle()
        letters = list(self.bus.dead_letters(BILLING))
        marks = [_mark(letter) for letter in letters]
        waited = self.bus.status(BILLING)[0].parked
        text = f"billing is done but for {len(letters)} dead letter and {waited} parked behind it"
        self.news.headline("shop", text, "bold")
        if self.stop.wait(LOOK):
            raise Interrupted
        self.staff.rates.galleons = True
        ids = [letter.id for letter in letters if letter.id is not None]
        redriven = self.bus.redrive(BILLING, ids)
        text = f"billing knows galleons now: {redriven} dead letter redriven, to its old place"
        self.news.headline("shop", text, "bold green")
        self._settle()
        return Repair(marks, waited, redriven)

    def _settle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.bus.wait_idle(timeout=0.5):
            if self.stop.is_set():
                raise Interrupted
            if time.monotonic() > deadline:
                return  # the verdict says what is missing


def _mark(letter: DeadLetter) -> Mark:
    try:
        event = msgspec.convert(letter.body, OrderEvent)
    except msgspec.ValidationError:
        return ("?", 0)
    return (event.order_id, event.step)


def play(dsn: str | None, *, events: int, seed: int, as_json: bool) -> int:
    """Run the demonstration; return the exit code: 0 for a good verdict, else 1.

    Raises:
        PgbusError: there is no database, it cannot be used, or another demonstration runs in it.
    """
    # The view tells of every failure; the same as log lines would tear it.
    for name in ("pgbus", "psycopg.pool"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    console = Console(highlight=False, quiet=as_json)
    began = time.monotonic()
    with _theatre(dsn, console) as (bus, server):
        ready = time.monotonic() - began
        try:
            _clear(bus, console)
            verdict, seconds = _perform(bus, console, server, events=events, seed=seed)
            _drop(bus)
        except (KeyboardInterrupt, Interrupted):
            _drop(bus)
            Console(stderr=True).print("pgbus: stopped before the verdict; nothing is left behind")
            return 1
    if as_json:
        facts = {"events": events, "set_up": round(ready, 3), "seconds": round(seconds, 3)}
        print(msgspec.json.encode({**as_object(verdict), **facts}).decode())  # noqa: T201
    else:
        show_verdict(console, verdict, events, ready, seconds)
    return 0 if verdict.good else 1


@contextmanager
def _theatre(dsn: str | None, console: Console) -> Iterator[tuple[Bus, str]]:
    """Yield a bus on a database that pgbus is installed in, and what to call the server."""
    server = "a PostgreSQL of yours" if dsn else "the embedded PostgreSQL"
    if dsn is None:
        console.print(f"on {server}, which is meant for development and tests")
    with ExitStack() as stack:
        with console.status(f"starting {server}") if console.is_terminal else nullcontext():
            bus = stack.enter_context(_bus(dsn))
            try:
                bus.install()
            except IncompatibleDatabase as reason:
                if dsn is not None:
                    raise
                # Of another release, or of a checkout between two: no reason to see nothing.
                console.print(f"{reason}: playing in a database of its own", soft_wrap=True)
                bus = stack.enter_context(_bus(stack.enter_context(own_database(bus.dsn))))
                bus.install()
        yield bus, server


def _bus(dsn: str | None) -> Bus:
    # Its types would outlive it in the registry.
    return Bus(dsn, service="pgbus demo", lease=LEASE, schema_check="off")


def _perform(
    bus: Bus, console: Console, server: str, *, events: int, seed: int
) -> tuple[Verdict, float]:
    began = time.monotonic()
    stop = threading.Event()
    news = News()
    story = invent(events, seed)
    staff = Staff(bus, news, seed)
    bus.declare()  # before the first event
    shop = Shop(bus, story, stop)
    act = Play(bus, shop, staff, news, stop)
    thread = threading.Thread(target=act.perform, name="demo")
    thread.start()
    try:
        scene = Scene(bus, shop, staff, news, total=events, server=server)
        with ended_by_signals(act.over):
            show(console, scene, act.over)
    finally:
        stop.set()
        thread.join()
    if act.error is not None:
        raise act.error
    assert act.repair is not None
    return judge(story, shop.receipts, staff.pages, act.repair), time.monotonic() - began


def _clear(bus: Bus, console: Console) -> None:
    """Drop what an earlier demonstration left that was killed."""
    deadline = time.monotonic() + LEASE + 1
    told = False
    while True:
        try:
            _drop(bus)
        except StoreError:
            # Its worker lives until its lease ends and somebody says so. Or it really lives.
            if time.monotonic() > deadline:
                raise
        else:
            return
        if not told:
            console.print("an earlier demo was killed, or runs: waiting for its lease to end")
            told = True
        time.sleep(0.25)
        with translated(), connect(bus.dsn, name="pgbus demo") as connection:
            run(connection, workers.reap())


def _drop(bus: Bus) -> None:
    for one in bus.status(*PATTERNS):
        bus.drop_subscription(one.name, force=True)
