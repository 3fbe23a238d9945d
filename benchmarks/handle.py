"""Program 2: how fast do typed handlers get through what waits?"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from benchmarks import floors
from benchmarks.backlog import fill
from benchmarks.crowd import crowd, drain
from benchmarks.measure import Case, Series
from benchmarks.orders import orders
from benchmarks.peers import PGBUS, traits
from benchmarks.peers.pgbus import ROWS
from benchmarks.report import Figure, Report, compared
from benchmarks.run import Opened, Run, describe, fastest, find
from benchmarks.tally import THREADS, Job, Ledger, Marks
from pgbus import Event

LIMIT = 20.0
"""Seconds after which a slow contender is judged by what it handled until then."""
MANY = 100
SLOW = {"procrastinate": 20}
"""These handle so many times fewer events in a run."""
GROUPED_PEER = "pgmq-grouped"
ONE_KEY, HUNDRED_KEYS = "ordered, 1 key", "ordered, 100 keys"
TEN_A_KEY, ONE_A_KEY = "ordered, 10,000 keys, 10 events each", "ordered, one event a key"
UNKEYED = "without keys"
AT_ONCE, SINGLY = f"{UNKEYED}, asked for {MANY} at once", f"{UNKEYED}, asked for one at once"
GROUPED = "ordered, 10,000 events in 1,000 keys"
TRANSACTIONS = "ordered, each event in the handler's transaction"
INSERTS = "ordered, a row inserted for each event"
CONNECTIONS = (4, THREADS)
"""Of transactional handlers, one for each thread, and of their floors. Where handlers wait for
nothing but their commits, more than four threads only take the interpreter from each other."""


def raw_delete(callers: int) -> str:
    """Return what the floor of transactional handlers is called."""
    return f"BEGIN; DELETE; COMMIT on {callers} connections"


def transactions(threads: int) -> str:
    """Return the name of a shape."""
    return f"{TRANSACTIONS}, {threads} threads"


def processes(count: int) -> str:
    """Return the ending of a shape's name."""
    return "" if count == 1 else ", two processes"


def handle(run: Run) -> Report:
    """Measure handling, and compare."""
    present = run.present()
    names = [name for name in present if name != GROUPED_PEER]
    series = []
    for count in (1, 2):
        with ExitStack() as stack:
            series += run.rounds(_keyed(run, stack, count) + _unkeyed(run, stack, names, count))
        for more in (_transactional, _inserting, _batch_handlers):
            with ExitStack() as stack:
                series += run.rounds(more(run, stack, count))
    with ExitStack() as stack:
        series += run.rounds(_grouped(run, stack, present))
    series += real_data(run, names)
    return Report(
        program="handle",
        question="how many waiting events a second do typed handlers get through?",
        setup=[
            f"the 350-byte order, {_total(run):,} events wait where nothing else is said",
            "the first round checks pgbus's order across processes, and that no event comes twice",
            "a consuming process decodes each into its type, calls a handler, and acknowledges",
            f"the clock runs from a tenth of the events to the last, at most {LIMIT:.0f} s",
            f"rows inserted: one a transaction, or in one statement those of up to {MANY} events",
            run.method,
            *describe(present),
        ],
        figures=_figures(series, [traits(name).name for name in names if name != PGBUS]),
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
    )


def _total(run: Run) -> int:
    return 2 * run.events


def waiting(shape: str, one: Opened, job: Job, events: Sequence[Event], count: int) -> Case:
    """Return the case of handling events that wait, by so many processes."""
    checked = iter([one.ours])  # in the first round, which is the warm-up

    def once() -> float:
        ledger = Ledger(events) if next(checked, False) else None
        one.peer.clear(job.kind)
        one.peer.publish_many(events, 1000)
        with crowd(one.name, one.dsn, job, processes=count, ledger=ledger) as consumers:
            found = drain(consumers, len(events), LIMIT)
        consumers.check_order(shape)
        return found.rate

    few = f"of {len(events):,} events" if one.name in SLOW else ""
    return Case(shape + processes(count), one.title, once, note=few, ours=one.ours)


def _scaled(name: str, events: Sequence[Event]) -> Sequence[Event]:
    return events[: max(20, len(events) // SLOW.get(name, 1))]


def _keyed(run: Run, stack: ExitStack, count: int) -> list[Case]:
    total = _total(run)
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    job = Job("order")
    shapes = [
        (ONE_KEY, orders(total // 4, 1)),
        (HUNDRED_KEYS, orders(total, 100)),
        (TEN_A_KEY, _ten_a_key(run)),
        (ONE_A_KEY, orders(total, total)),
    ]
    # Last what is compared with the peers, who come next: a slow minute is one for all of them.
    return [
        million(run, stack, count),
        *(waiting(shape, ours, job, events, count) for shape, events in shapes),
    ]


def _ten_a_key(run: Run) -> list[Event]:
    keys = min(10_000, max(1, run.events // 2))
    return orders(10 * keys, keys)


def million(run: Run, stack: ExitStack, count: int) -> Case:
    """A backlog of many events in as many keys: each run takes its part."""
    total = _total(run)
    many = min(1_000_000, 50 * run.events)
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    title = f"ordered, {many:,} keys with one event each, the first {total:,} of them"
    first = iter([True])

    def once() -> float:
        marks = None
        if next(first, False):
            fill(ours.peer, many)
            marks = Marks(many)  # each key has one event: it is in order unless it comes twice
        with crowd(PGBUS, ours.dsn, Job("order"), processes=count, ledger=marks) as consumers:
            found = drain(consumers, total, LIMIT)
        consumers.check_order(title)
        return found.rate

    return Case(title + processes(count), ours.title, once, ours=True)


def _unkeyed(run: Run, stack: ExitStack, names: Sequence[str], count: int) -> list[Case]:
    cases = []
    for name in names:
        one = stack.enter_context(run.contender(name, "loose"))
        events = _scaled(name, orders(_total(run), None))
        few = events[: max(20, len(events) // 10)]
        if one.ours:
            cases.append(waiting(UNKEYED, one, Job("loose"), events, count))
            continue
        cases += [
            waiting(AT_ONCE, one, Job("loose", batch=MANY), events, count),
            waiting(SINGLY, one, Job("loose", batch=1), few, count),
        ]
    return sorted(cases, key=lambda case: case.shape.startswith(SINGLY))


def _transactional(run: Run, stack: ExitStack, count: int) -> list[Case]:
    few = max(20, run.events // 5)
    events = orders(few, max(1, few // 10))
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    dsn = stack.enter_context(run.server.database())
    stored = floors.rows(dsn, events)
    cases = []
    for threads in CONNECTIONS:
        shape, job = transactions(threads), Job("order", "transaction", threads=threads)
        cases.append(waiting(shape, ours, job, events, count))
        callers = threads * count
        floor = partial(floors.delete, dsn, stored, callers)
        cases.append(Case(shape + processes(count), raw_delete(callers), floor))
    return cases


def _inserting(run: Run, stack: ExitStack, count: int) -> list[Case]:
    few = max(20, run.events // 5)
    events = orders(few, max(1, few // 10))
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    with run.server.connect(ours.dsn) as connection:
        connection.execute(ROWS)
    one_by_one = waiting(INSERTS, ours, Job("order", "insert"), events, count)
    at_once = waiting(INSERTS, ours, Job("order", "insert batch", batch=MANY), events, count)
    return [one_by_one, replace(at_once, contender=f"{ours.title}, batch handler")]


def _batch_handlers(run: Run, stack: ExitStack, count: int) -> list[Case]:
    total = _total(run)
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    job = Job("order", "batch", batch=MANY)
    return [
        waiting(f"{TEN_A_KEY}, batch handler", ours, job, _ten_a_key(run), count),
        waiting(f"{ONE_A_KEY}, batch handler", ours, job, orders(total, total), count),
    ]


def _grouped(run: Run, stack: ExitStack, present: Sequence[str]) -> list[Case]:
    scale = min(1.0, run.events / 10_000)
    events = orders(max(20, int(10_000 * scale)), max(1, int(1_000 * scale)))
    names = [name for name in (PGBUS, GROUPED_PEER) if name in present]
    if GROUPED_PEER in names:
        title = traits(GROUPED_PEER).name
        run.left_out.append(f"{title} in all shapes but {GROUPED!r}: it would take minutes")
    return [
        waiting(GROUPED, stack.enter_context(run.contender(name, "order")), Job("order"), events, 1)
        for name in names
    ]


def real_data(run: Run, names: Sequence[str]) -> list[Series]:
    """Measure what these contenders handle of the data beside the checkout."""
    series = []
    for kind, title, events in run.real_data(_total(run)):
        job = Job(kind, batch=MANY)
        with ExitStack() as stack:
            contenders = [stack.enter_context(run.contender(name, kind)) for name in names]
            cases = [
                waiting(title, one, job, _scaled(one.name, events), count)
                for count in (1, 2)
                for one in contenders
            ]
            series += run.rounds(cases)
    return series


def _figures(series: Sequence[Series], peers: Sequence[str]) -> list[Figure]:
    in_python = [name for name in peers if "hiredis" not in name]
    best = [fastest(series, AT_ONCE, names) for names in (in_python, peers)]
    others = dict.fromkeys(one[0] for one in best if one is not None)
    to_fastest = [
        ("one key, ordered", ONE_KEY, 1.3),
        ("100 keys, ordered", HUNDRED_KEYS, 1.3),
        ("10 events a key, ordered", TEN_A_KEY, 1.3),
        ("one event a key, ordered", ONE_A_KEY, 0.5),
        ("without keys", UNKEYED, 0.5),
    ]
    wanted = [
        *(
            (what, shape, AT_ONCE, other, least)
            for what, shape, least in to_fastest
            for other in others
        ),
        ("one event a key, ordered", ONE_A_KEY, AT_ONCE, "PgQueuer", 2.0),
        ("without keys", UNKEYED, AT_ONCE, "PgQueuer", 2.0),
        ("10,000 events in 1,000 keys", GROUPED, GROUPED, "pgmq grouped", 50.0),
        *(
            ("transactional handlers", transactions(one), transactions(one), raw_delete(one), 0.8)
            for one in CONNECTIONS
        ),
    ]
    found = []
    for what, shape, other_shape, other, least in wanted:
        ours, theirs = find(series, shape, "pgbus"), find(series, other_shape, other)
        found += compared(what, ours, theirs, "at least", least)
    return found
