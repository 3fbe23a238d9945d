"""Program 2: how fast do typed handlers get through what waits?"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks import floors
from benchmarks.crowd import crowd, drain
from benchmarks.measure import Case, Series
from benchmarks.orders import file_changes, orders, webhooks
from benchmarks.peers import PGBUS, make
from benchmarks.peers.pgbus import has_batches
from benchmarks.report import Figure, Report, compared
from benchmarks.run import Opened, Run, describe, fastest, find
from benchmarks.tally import THREADS, Job
from pgbus import Event

LIMIT = 20.0
"""Seconds after which a slow contender is judged by what it handled until then."""
ONE_BY_ONE, MANY = 1, 100
SLOW = {"procrastinate": 20, "pgmq-grouped": 5}
"""These handle so many times fewer events in a run."""
TEN_A_KEY, ONE_A_KEY = "ordered, 10,000 keys, 10 events each", "ordered, one event a key"
UNKEYED = "without keys"
GROUPED = "ordered, 10,000 events in 1,000 keys"
TRANSACTIONS = "ordered, each event in the handler's transaction"
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
    names = run.present()
    series = []
    for count in (1, 2):
        with ExitStack() as stack:
            series += run.rounds(_keyed(run, stack, count) + _unkeyed(run, stack, names, count))
        with ExitStack() as stack:
            series += run.rounds(_transactional(run, stack, count))
        with ExitStack() as stack:
            series += run.rounds(_batch_handlers(run, stack, count))
    with ExitStack() as stack:
        series += run.rounds(_grouped(run, stack, names))
    for count in (1, 2):
        series += _real_data(run, names, count)
    if not has_batches():
        run.left_out.append("batch handlers (list[E]): this pgbus has none yet")
    peers = [make(name, "").traits.name for name in names if name not in (PGBUS, "pgmq-grouped")]
    return Report(
        program="handle",
        question="how many waiting events a second do typed handlers get through?",
        setup=[
            f"the 350-byte order, {_total(run):,} events wait where nothing else is said",
            "their order is checked in the round that warms up, and that of file changes in all",
            "a consuming process decodes each into its type, calls a handler, and acknowledges",
            f"the clock runs from a tenth of the events to the last, at most {LIMIT:.0f} s",
            run.method,
            *describe(names),
        ],
        figures=_figures(series, peers),
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
    )


def _total(run: Run) -> int:
    return 2 * run.events


def _case(shape: str, one: Opened, job: Job, events: Sequence[Event], count: int) -> Case:
    checked = iter([one.ours])  # in the first round, which is the warm-up

    def once() -> float:
        one.peer.clear(job.kind)
        one.peer.publish_many(events, 1000)
        looked_at = job._replace(checked=next(checked, job.checked))
        with crowd(one.name, one.dsn, looked_at, processes=count) as consumers:
            found = drain(consumers, len(events), LIMIT)
            if one.ours and consumers.misordered:
                raise RuntimeError(f"{consumers.misordered} events out of order in {shape!r}")
            return found.rate

    return Case(shape + processes(count), one.title, once, ours=one.ours)


def _keyed(run: Run, stack: ExitStack, count: int) -> list[Case]:
    total = _total(run)
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    job = Job("order")
    shapes = [
        ("ordered, 1 key", orders(total // 4, 1)),
        ("ordered, 100 keys", orders(total, 100)),
        (TEN_A_KEY, _ten_a_key(run)),
        (ONE_A_KEY, orders(total, total)),
    ]
    # Last what is compared with the peers, who come next: a slow minute is one for all of them.
    return [
        _million(run, stack, count),
        *(_case(shape, ours, job, events, count) for shape, events in shapes),
    ]


def _ten_a_key(run: Run) -> list[Event]:
    keys = min(10_000, max(1, run.events // 2))
    return orders(10 * keys, keys)


def _million(run: Run, stack: ExitStack, count: int) -> Case:
    """A backlog of many events in as many keys: each run takes its part."""
    total = _total(run)
    many = min(1_000_000, 50 * run.events)
    ours = stack.enter_context(run.contender(PGBUS, "order"))

    def once() -> float:
        if many not in filled:
            for start in range(0, many, total):
                ours.peer.publish_many(orders(total, many, first=start), 1000)
            filled.add(many)
        with crowd(PGBUS, ours.dsn, Job("order"), processes=count) as consumers:
            return drain(consumers, total, LIMIT).rate

    filled: set[int] = set()
    title = f"ordered, {many:,} keys with one event each, the first {total:,} of them"
    return Case(title + processes(count), ours.title, once, ours=True)


def _unkeyed(run: Run, stack: ExitStack, names: Sequence[str], count: int) -> list[Case]:
    cases = []
    for name in names:
        if name == "pgmq-grouped":
            continue
        one = stack.enter_context(run.contender(name, "loose"))
        events = orders(max(20, _total(run) // SLOW.get(name, 1)), None)
        few = events[: max(20, len(events) // 10)]
        if one.ours:
            cases.append(_case(UNKEYED, one, Job("loose"), events, count))
            continue
        cases += [
            _case(
                f"{UNKEYED}, asked for {MANY} at once", one, Job("loose", batch=MANY), events, count
            ),
            _case(f"{UNKEYED}, asked for one at once", one, Job("loose", batch=1), few, count),
        ]
    return sorted(cases, key=lambda case: "asked for one" in case.shape)


def _transactional(run: Run, stack: ExitStack, count: int) -> list[Case]:
    few = max(20, run.events // 5)
    events = orders(few, max(1, few // 10))
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    dsn = stack.enter_context(run.server.database())
    stored = floors.rows(dsn, events)
    cases = []
    for threads in CONNECTIONS:
        shape, job = transactions(threads), Job("order", "transaction", threads=threads)
        cases.append(_case(shape, ours, job, events, count))
        callers = threads * count
        floor = partial(floors.delete, dsn, stored, callers)
        cases.append(Case(shape + processes(count), raw_delete(callers), floor))
    return cases


def _batch_handlers(run: Run, stack: ExitStack, count: int) -> list[Case]:
    if not has_batches():
        return []
    total = _total(run)
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    job = Job("order", "batch", batch=MANY)
    return [
        _case(f"{TEN_A_KEY}, batch handler", ours, job, _ten_a_key(run), count),
        _case(f"{ONE_A_KEY}, batch handler", ours, job, orders(total, total), count),
    ]


def _grouped(run: Run, stack: ExitStack, names: Sequence[str]) -> list[Case]:
    scale = min(1.0, run.events / 10_000)
    events = orders(max(20, int(10_000 * scale)), max(1, int(1_000 * scale)))
    return [
        _case(GROUPED, stack.enter_context(run.contender(name, "order")), Job("order"), events, 1)
        for name in names
        if name in (PGBUS, "pgmq-grouped")
    ]


def _real_data(run: Run, names: Sequence[str], count: int) -> list[Series]:
    series = []
    for kind, title, events in (
        ("change", "18,475 file changes, order checked", file_changes()),
        ("webhook", "webhooks of 1 to 24 KB", webhooks()),
    ):
        if events is None:
            run.left_out.append(f"{title}: the data does not lie beside the checkout")
            continue
        chosen = (events * 10 if kind == "webhook" else events)[: _total(run)]
        with ExitStack() as stack:
            cases = []
            for name in names:
                if name in SLOW or (kind == "change" and name != PGBUS):
                    continue
                one = stack.enter_context(run.contender(name, kind))
                job = Job(kind, batch=MANY, checked=kind == "change")
                cases.append(_case(title, one, job, chosen, count))
            series += run.rounds(cases)
    return series


def _figures(series: Sequence[Series], peers: Sequence[str]) -> list[Figure]:
    many = f"{UNKEYED}, asked for {MANY} at once"
    in_python = [name for name in peers if "hiredis" not in name]
    best = [fastest(series, many, names) for names in (in_python, peers)]
    others = dict.fromkeys(one[0] for one in best if one is not None)
    wanted = [
        *(("10 events a key, ordered", TEN_A_KEY, many, other, 1.3) for other in others),
        *(("one event a key, ordered", ONE_A_KEY, many, other, 0.5) for other in others),
        *(("without keys", UNKEYED, many, other, 0.5) for other in others),
        ("one event a key, ordered", ONE_A_KEY, many, "PgQueuer", 2.0),
        ("without keys", UNKEYED, many, "PgQueuer", 2.0),
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
