"""Program 4: what do taking, publishing and handling cost as the backlog grows?"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import psycopg

from benchmarks.backlog import Backlog, Shape, takes
from benchmarks.measure import Case, Series
from benchmarks.report import Figure, Report, compared
from benchmarks.run import Run, find

UNHELD, HELD = "no snapshot", "a long open snapshot"
TIMES = 2
"""So many times the runs that were asked for: each is over in half a second."""
MOST = 1.3
OPERATIONS = ("take", "publish", "handle")
UNSWEPT = "take, dead rows of the last round not removed"
ORDER = (UNSWEPT, *OPERATIONS)
FEW = 5_000
"""Events of a round beside barred keys, at most: enough for what is measured, and soon over."""
BESIDE = "the same, with those keys"
FAMILY = "the costs of taking, publishing and handling, by shape of backlog"


def shapes(scale: float) -> list[Shape]:
    """Return the shapes of a backlog; ``scale`` makes what lies in front smaller."""
    return [
        Shape("1 key", lambda n: 0),  # noqa: ARG005 - the same key for each
        Shape("1,000 keys", lambda n: n % 1000),
        Shape("one event a key", lambda n: n),
        Shape("without keys", None),
        Shape("a hot key in front, waiting", lambda n: n, hot=int(100_000 * scale)),
        Shape(
            "a hot key in front, in flight", lambda n: n, hot=int(100_000 * scale), hot_taken=True
        ),
        Shape("beside delayed events", lambda n: n, delayed=int(100_000 * scale)),
        Shape("beside events delayed by pgmq.send", lambda n: n, foreign=int(100_000 * scale)),
        Shape("beside events in flight", lambda n: n, in_flight=int(10_000 * scale)),
    ]


def barred(scale: float) -> dict[str, tuple[Shape, Shape]]:
    """Return shapes without many keys whose events nobody may have, and with, by their name."""
    many = int(100_000 * scale)
    return {
        f"{many:,} keys whose events wait for a retry": (
            Shape("one event a key", lambda n: n),
            Shape("beside events that wait for a retry", lambda n: n, retrying=many),
        ),
        f"{many:,} parked keys": (
            Shape("one event a key", lambda n: n, parked=0),
            Shape("beside parked keys", lambda n: n, parked=many),
        ),
    }


def growth(run: Run) -> Report:
    """Measure what operations cost beside a backlog, and compare with a small one."""
    run = replace(run, repeat=TIMES * run.repeat, left_out=[])
    scale = min(1.0, max(run.backlogs) / 100_000)
    step = max(50, min(20_000, run.events))
    chosen = shapes(scale)
    series = []
    for shape in chosen:
        with ExitStack() as stack:
            cases = []
            for size in run.backlogs:
                run.tell(f"filling {size:,}: {shape.name}")
                backlog = stack.enter_context(Backlog(run.server, shape, size, step))
                cases += _cases(shape.name, _label(size), backlog)
                if shape is chosen[0]:
                    cases.append(_unswept(shape.name, _label(size), backlog))
            series += run.rounds(_in_order(cases))
    series += _snapshot(run, run.backlogs[len(run.backlogs) // 2], step)
    for name, pair in barred(scale).items():
        series += _beside(run, name, pair, min(step, FEW))
    return Report(
        program="growth",
        question="what do taking, publishing and handling cost as the backlog grows?",
        setup=[
            "beside a backlog of "
            + ", ".join(f"{size:,}" for size in run.backlogs)
            + " events, vacuumed and written out:",
            f"take: {takes(step)} statements that lease 100 keys, up to 10 events each, per event",
            "each take after a vacuum, where nothing else is said",
            f"publish: {step:,} events in batches of 100, on top of the backlog",
            f"handle: a process finds {step:,} more than the backlog, and gets through as many",
            "the first round checks order, that no event comes twice, and none that must not",
            "figures: the dearest of the larger backlogs to the smallest",
            f"in front or beside: {_sizes(scale)}",
            f"and {', and '.join(barred(scale))}, beside {min(step, FEW):,} events a round",
            f"there over {run.repeat // TIMES} rounds; a worker takes that has just begun",
            run.method.replace("unit: events/s", "unit: µs an event (take), events/s"),
        ],
        figures=[
            *dearest(series, [shape.name for shape in chosen], run.backlogs),
            *beside(series, list(barred(scale)), min(run.backlogs)),
        ],
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
        baseline=_label(min(run.backlogs)),
    )


def _sizes(scale: float) -> str:
    many, some = 100_000 * scale, 10_000 * scale
    return f"{many:,.0f} events of a hot key, {many:,.0f} delayed ones, {some:,.0f} in flight"


def _label(size: int) -> str:
    return f"{size:,} waiting"


def _case(operation: str, shape: str, contender: str, work: Callable[[], float], unit: str) -> Case:
    return Case(f"{operation}: {shape}", contender, work, unit, ours=True)


def _cases(shape: str, contender: str, backlog: Backlog) -> list[Case]:
    return [
        _case("take", shape, contender, backlog.take, "µs/event"),
        _case("publish", shape, contender, backlog.publish, "events/s"),
        _case("handle", shape, contender, backlog.handle, "events/s"),
    ]


def _unswept(shape: str, contender: str, backlog: Backlog) -> Case:
    """Take as users do between two visits of autovacuum.

    Of one key, because its dead rows all lie where the next of it is looked for.
    """
    return _case(UNSWEPT, shape, contender, backlog.take_unswept, "µs/event")


def _in_order(cases: Sequence[Case]) -> list[Case]:
    """Bring the backlogs of an operation together; each one's publish still precedes its handle."""
    return sorted(cases, key=lambda case: ORDER.index(case.shape.split(":")[0]))


def _snapshot(run: Run, size: int, step: int) -> list[Series]:
    """Measure beside a transaction that keeps every dead row from being removed."""
    shape = Shape("1,000 keys", lambda n: n % 1000)
    with ExitStack() as stack:
        cases = []
        for title in (UNHELD, HELD):
            run.tell(f"filling {size:,}: {title}")
            backlog = stack.enter_context(Backlog(run.server, shape, size, step))
            if title == HELD:
                old = stack.enter_context(psycopg.connect(backlog.dsn))
                old.execute("set transaction isolation level repeatable read")
                old.execute("select count(*) from pgmq.meta")
            cases += _cases(f"{shape.name}, {_label(size)}", title, backlog)
        series = run.rounds(_in_order(cases))
    for one in series:
        one.note = "first to last: " + ", ".join(f"{value:,.3g}" for value in one.values)
    return series


def _beside(run: Run, name: str, pair: tuple[Shape, Shape], step: int) -> list[Series]:
    """Measure without barred keys in front of what waits, and with them."""
    size = min(run.backlogs)
    with ExitStack() as stack:
        cases = []
        for shape, title in zip(pair, (_label(size), BESIDE), strict=True):
            run.tell(f"filling {size:,}: {shape.name}")
            backlog = stack.enter_context(Backlog(run.server, shape, size, step))
            cases += _cases(f"beside {name}", title, backlog)
        # As many as were asked for: each of them may take many seconds.
        return replace(run, repeat=run.repeat // TIMES).rounds(_in_order(cases))


def dearest(series: Sequence[Series], names: Sequence[str], sizes: Sequence[int]) -> list[Figure]:
    """Compare each operation beside each shape, at the size where it costs most, with the least."""
    least, *larger = sorted(sizes)
    found: list[Figure] = []
    for operation in OPERATIONS:
        for name in names:
            title = f"{operation}: {name}"
            costs = [one for size in larger for one in _grown(series, title, least, size)]
            found += sorted(costs, key=lambda one: one.reached)[-1:]
    return found


def _grown(series: Sequence[Series], title: str, least: int, size: int) -> list[Figure]:
    small, large = _label(least), _label(size)
    return _cost(series, title, small, large, f"{large} to {small}")


def beside(series: Sequence[Series], names: Sequence[str], size: int) -> list[Figure]:
    """Compare each operation beside barred keys with the same without them."""
    titles = [f"{operation}: beside {name}" for name in names for operation in OPERATIONS]
    basis = f"{_label(size)}, with those keys to without"
    return [one for title in titles for one in _cost(series, title, _label(size), BESIDE, basis)]


def _cost(series: Sequence[Series], title: str, cheap: str, dear: str, basis: str) -> list[Figure]:
    small, large = find(series, title, cheap), find(series, title, dear)
    # Costs are compared, and rates the other way round.
    one, other = (large, small) if title.startswith("take") else (small, large)
    return compared(f"cost of {title}", one, other, "at most", MOST, basis=basis, family=FAMILY)
