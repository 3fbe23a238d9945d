"""Program 1: how fast are events published?"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count as numbers
from uuid import uuid4

import psycopg

from benchmarks import floors
from benchmarks.measure import Case, Series, rate
from benchmarks.orders import batches, orders
from benchmarks.peers import PGBUS, Peer
from benchmarks.peers.pgbus import Pgbus, declare
from benchmarks.report import Figure, Report, compared
from benchmarks.run import Opened, Run, describe, fastest, find
from benchmarks.server import configure
from pgbus import Bus, Event

ONE, EIGHT = "one by one", "one by one, 8 callers"
BATCHES = (10, 100, 1000)
CALLERS = 8
SLOW = {"procrastinate": 5}
"""These publish so many times fewer events in a run."""
SLOW_COMMIT = 2000
"""Microseconds that a slow disk takes to flush."""
ON_SLOW_DISK = f", a flush taking {SLOW_COMMIT / 1000:g} ms more"
FAN_OUT = (1, 3, 10, 20)
BINDINGS = (1, 100, 10_000)
NEW_TOPICS = "one by one, each to a topic of its own"
SHARED_ENDS = "that begin and end alike"
FEW_TOPICS = 5
"""Where patterns begin and end alike, each of them is tried for every new topic: a tenth of a
second and more."""
IDS = "one by one, each with an id"
RAW_INSERT, RAW_COPY = "raw INSERT and commit", "raw COPY"
RAW_COPY_READY = "raw COPY, text made beforehand"


def batch(size: int) -> str:
    """Return the name of a shape."""
    return f"in batches of {size:,}"


def publish(run: Run) -> Report:
    """Measure publishing, and compare."""
    names = run.present(without={"pgmq-grouped": "it publishes as pgmq does"})
    few = max(run.events // 10, 20)
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(run.contender(name, "order")) for name in names}
        cases = _plain(contenders[PGBUS], run.events, few) + _floors(run, stack, few)
        for name in names[1:]:
            scale = SLOW.get(name, 1)
            many = max(min(run.events, 2_000), run.events // scale)
            cases += _plain(contenders[name], many, few)
        series = run.rounds(sorted(cases, key=_place))
    series += _real_data(run, names)
    for more in (_slow_commits, _transactions, _identified, _fan_outs, _many_bindings):
        with ExitStack() as stack:
            series += run.rounds(more(run, stack, few))
    durable = [one.title for one in contenders.values() if one.peer.traits.durable]
    return Report(
        program="publish",
        question="how many events a second can one process publish, each confirmed as committed?",
        setup=[
            f"the 350-byte order, {run.events:,} events in 1,000 keys a run ({few:,} one by one)",
            "bindings: 100 and 10,000 patterns with ends of their own (other7.*.placed);",
            f"of patterns {SHARED_ENDS} (*.other7.*), each is tried for a new topic: no figure",
            run.method,
            *describe(names),
        ],
        figures=_figures(series, [name for name in durable if name != "pgbus"]),
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
    )


def _place(case: Case) -> int:
    shapes = [ONE, EIGHT, *(batch(size) for size in BATCHES)]
    return shapes.index(case.shape) if case.shape in shapes else len(shapes)


def _plain(one: Opened, many: int, few: int) -> list[Case]:
    peer = one.peer
    events = orders(many, 1000)

    def timed(count: int, work: Callable[[Sequence[Event]], None]) -> float:
        part = events[:count]
        work(events[:CALLERS])  # whoever connects when there is need of it does so now
        peer.clear("order")
        return rate(len(part), lambda: work(part))

    def case(shape: str, count: int, work: Callable[[Sequence[Event]], None]) -> Case:
        return Case(shape, one.title, partial(timed, count, work), ours=one.ours)

    return [
        case(ONE, few, lambda some: peer.publish_each(some, 1)),
        case(EIGHT, 2 * few, lambda some: peer.publish_each(some, CALLERS)),
        *(
            case(batch(size), many, lambda some, size=size: peer.publish_many(some, size))  # type: ignore[misc]
            for size in BATCHES
        ),
    ]


def _floors(run: Run, stack: ExitStack, few: int) -> list[Case]:
    dsn = stack.enter_context(run.server.database())
    stored = floors.rows(dsn, orders(run.events, 1000))
    cases = [
        Case(ONE, RAW_INSERT, lambda: floors.insert(dsn, stored[:few], 1)),
        Case(EIGHT, RAW_INSERT, lambda: floors.insert(dsn, stored[: 2 * few], CALLERS)),
        Case(ONE, "an empty row and commit", lambda: floors.commits(dsn, few)),
    ]
    folder = run.server.folder
    if folder is not None:
        cases.append(
            Case(ONE, "8 KiB and fdatasync", lambda: floors.synchronisations(folder, few), "/s")
        )
    for size in BATCHES:
        cases.append(Case(batch(size), RAW_COPY, partial(floors.copy, dsn, stored, size)))
        cases.append(
            Case(batch(size), RAW_COPY_READY, partial(floors.copy_ready, dsn, stored, size))
        )
    twice = partial(floors.copy_ready, dsn, stored, BATCHES[-1], callers=2)
    cases.append(Case(batch(BATCHES[-1]), f"{RAW_COPY_READY}, on two connections", twice))
    return cases


def _real_data(run: Run, names: Sequence[str]) -> list[Series]:
    series = []
    for kind, title, events in run.real_data(run.events):
        size = 1000 if kind == "change" else 100
        with ExitStack() as stack:
            cases = []
            for name in names:
                one = stack.enter_context(run.contender(name, kind))
                part = events[: max(20, len(events) // SLOW.get(name, 1))]
                work = partial(_whole, one.peer, kind, part, size)
                cases.append(Case(f"{title}, {batch(size)}", one.title, work, ours=one.ours))
            series += run.rounds(cases)
    return series


def _whole(peer: Peer, kind: str, events: Sequence[Event], size: int) -> float:
    peer.publish_many(events[:1], size)  # see _plain
    peer.clear(kind)
    return rate(len(events), lambda: peer.publish_many(events, size))


def _ready(stack: ExitStack, dsn: str) -> Pgbus:
    peer = Pgbus(dsn)
    peer.open()
    stack.callback(peer.close)
    peer.clear("order")
    return peer


def _slow_commits(run: Run, stack: ExitStack, few: int) -> list[Case]:
    """Publish one by one as on a disk that is slow to flush: PostgreSQL waits before it does."""
    dsn, bare = (stack.enter_context(run.server.database()) for _ in range(2))
    if not slow_disk(run, dsn, bare):
        return []
    peer = _ready(stack, dsn)
    cases = []
    for shape, callers, count in ((ONE, 1, few // 5), (EIGHT, CALLERS, few)):
        events = orders(count, 1000)
        stored = floors.rows(bare, events)
        ours = partial(rate, count, partial(peer.publish_each, events, callers))
        raw = partial(floors.insert, bare, stored, callers)
        cases.append(Case(shape + ON_SLOW_DISK, "pgbus", ours, ours=True))
        cases.append(Case(shape + ON_SLOW_DISK, RAW_INSERT, raw))
    return cases


def slow_disk(run: Run, *databases: str) -> bool:
    """Have PostgreSQL wait before it flushes, for commits in these databases; return if it does."""
    try:
        for database in databases:
            configure(database, commit_delay=str(SLOW_COMMIT), commit_siblings="0")
    except psycopg.errors.InsufficientPrivilege:
        run.left_out.append("slow commits: only a superuser may set commit_delay")
        return False
    return True


def _transactions(run: Run, stack: ExitStack, few: int) -> list[Case]:
    """Publish one event, beside a row of the caller's, in each of the caller's transactions."""
    dsn = stack.enter_context(run.server.database())
    peer = _ready(stack, dsn)
    floors.prepare(dsn)
    events, stored = orders(few, 1000), floors.rows(dsn, orders(few, 1000))
    connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
    connection.execute("create table purchase (n bigint generated always as identity, key text)")

    def ours() -> None:
        for event in events:
            with connection.transaction():
                connection.execute("insert into purchase (key) values (%s)", ["c"], prepare=True)
                peer.bus.publish(event, connection=connection)

    def raw() -> None:
        for row in stored:
            with connection.transaction():
                connection.execute("insert into purchase (key) values (%s)", ["c"], prepare=True)
                connection.execute(floors.INSERT, row, prepare=True)

    shape = "inside the caller's transaction, one each"
    return [
        Case(shape, "pgbus", lambda: rate(few, ours), ours=True),
        Case(shape, "raw INSERT", lambda: rate(few, raw)),
    ]


def _identified(run: Run, stack: ExitStack, few: int) -> list[Case]:
    """Publish with ids, each of which the server has to look for among those that came before."""
    peer = _ready(stack, stack.enter_context(run.server.database()))
    events = orders(few, 1000)

    def once() -> float:
        ids = [uuid4() for _ in events]

        def work() -> None:
            for event, id_ in zip(events, ids, strict=True):
                peer.bus.publish(event, id=id_)

        return rate(few, work)

    return [Case(IDS, "pgbus", once, ours=True)]


def _fan_outs(run: Run, stack: ExitStack, few: int) -> list[Case]:
    cases = []
    for count in FAN_OUT:
        dsn = stack.enter_context(run.server.database())
        for number in range(count):
            declare(dsn, "order", f"fan_{number}")
        bus = stack.enter_context(Bus(dsn, service="bench"))
        title = f"to {count} queue{'s' if count > 1 else ''}"
        cases += _both(bus, title, run.events, few)
    return cases


def _many_bindings(run: Run, stack: ExitStack, few: int) -> list[Case]:
    cases = []
    for count in BINDINGS:
        bus = _bound(run, stack, *(f"other{n}.*.placed" for n in range(count - 1)))
        title = f"{count:,} binding{'s' if count > 1 else ''}"
        cases += [*_both(bus, title, run.events, few), _new_topics(bus, title, few)]
    alike = _bound(run, stack, *(f"*.other{n}.*" for n in range(BINDINGS[-1] - 1)))
    title = f"{BINDINGS[-1]:,} bindings {SHARED_ENDS}"
    return [*cases, _new_topics(alike, title, min(few, FEW_TOPICS))]


def _bound(run: Run, stack: ExitStack, *others: str) -> Bus:
    """Return a bus whose orders are wanted, beside what is bound to these patterns."""
    dsn = stack.enter_context(run.server.database())
    declare(dsn, "order", "wanted", "orders.*")
    if others:
        declare(dsn, "order", "others", *others)
    return stack.enter_context(Bus(dsn, service="bench"))


def _new_topics(bus: Bus, title: str, few: int) -> Case:
    """Publish to topics that nobody has published to before: the server has to look each up."""
    events, fresh = orders(few, 1000), numbers()

    def once() -> None:
        for event in events:
            bus.publish(f"orders.number_{next(fresh)}", event)

    return Case(f"{title}, {NEW_TOPICS}", "pgbus", lambda: rate(few, once), ours=True)


def _both(bus: Bus, title: str, many: int, few: int) -> list[Case]:
    events = orders(many, 1000)

    def one_by_one() -> None:
        for event in events[:few]:
            bus.publish(event)

    def in_batches() -> None:
        for part in batches(events, 100):
            bus.publish_many(part)

    return [
        Case(f"{title}, one by one", "pgbus", lambda: rate(few, one_by_one), ours=True),
        Case(f"{title}, {batch(100)}", "pgbus", lambda: rate(many, in_batches), ours=True),
    ]


def _figures(series: Sequence[Series], durable_peers: Sequence[str]) -> list[Figure]:
    big = batch(1000)
    wanted = [
        ("publish_many of 1,000 to raw COPY", big, RAW_COPY, 0.6),
        ("publish_many of 1,000 to COPY of ready text", big, RAW_COPY_READY, 0.6),
        *(
            (what + disk, shape + disk, RAW_INSERT, 0.9)
            for disk in ("", ON_SLOW_DISK)
            for what, shape in (
                ("one by one to raw INSERT and commit", ONE),
                ("8 threads one by one to raw INSERT and commit", EIGHT),
            )
        ),
    ]
    best = fastest(series, big, durable_peers)
    if best is not None:
        wanted.append(("publish_many of 1,000 to the fastest durable peer", big, best[0], 1.5))
    found = []
    for what, shape, other, least in wanted:
        ours, theirs = find(series, shape, "pgbus"), find(series, shape, other)
        found += compared(what, ours, theirs, "at least", least)
    for how in ("one by one", batch(100), NEW_TOPICS):
        most, one = (find(series, f"{n}, {how}", "pgbus") for n in _binding_titles())
        found += compared(f"10,000 bindings to one, {how}", most, one, "at least", 0.5)
    return found


def _binding_titles() -> tuple[str, str]:
    return "10,000 bindings", "1 binding"
