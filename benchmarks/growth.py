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
            series += run.rounds(_in_order(cases))
    series += _snapshot(run, run.backlogs[len(run.backlogs) // 2], step)
    return Report(
        program="growth",
        question="what do taking, publishing and handling cost as the backlog grows?",
        setup=[
            "beside a backlog of "
            + ", ".join(f"{size:,}" for size in run.backlogs)
            + " events, vacuumed and written out:",
            f"take: {takes(step)} statements that lease 100 keys, up to 10 events each, per event",
            f"publish: {step:,} events in batches of 100, on top of the backlog",
            f"handle: a process finds {step:,} more than the backlog, and gets through as many",
            "figures: the dearest of the larger backlogs to the smallest",
            f"in front or beside: {_sizes(scale)}",
            run.method.replace("unit: events/s", "unit: µs an event (take), events/s"),
        ],
        figures=dearest(series, [shape.name for shape in chosen], run.backlogs),
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


def _cases(shape: str, contender: str, backlog: Backlog) -> list[Case]:
    def case(operation: str, work: Callable[[], float], unit: str) -> Case:
        return Case(f"{operation}: {shape}", contender, work, unit, ours=True)

    return [
        case("take", backlog.take, "µs/event"),
        case("publish", backlog.publish, "events/s"),
        case("handle", backlog.handle, "events/s"),
    ]


def _in_order(cases: Sequence[Case]) -> list[Case]:
    """Bring the backlogs of an operation together; each one's publish still precedes its handle."""
    return sorted(cases, key=lambda case: OPERATIONS.index(case.shape.split(":")[0]))


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


def dearest(series: Sequence[Series], names: Sequence[str], sizes: Sequence[int]) -> list[Figure]:
    """Compare each operation beside each shape, at the size where it costs most, with the least."""
    least, *larger = sorted(sizes)
    found: list[Figure] = []
    for operation in OPERATIONS:
        for name in names:
            title = f"{operation}: {name}"
            costs = [one for size in larger for one in _cost(series, title, least, size)]
            found += sorted(costs, key=lambda one: one.reached)[-1:]
    return found


def _cost(series: Sequence[Series], title: str, least: int, size: int) -> list[Figure]:
    small, large = find(series, title, _label(least)), find(series, title, _label(size))
    # Costs are compared, and rates the other way round.
    one, other = (large, small) if title.startswith("take") else (small, large)
    return compared(
        f"cost of {title}",
        one,
        other,
        "at most",
        MOST,
        basis=f"{_label(size)} to {_label(least)}",
        family="the costs of taking, publishing and handling, by shape of backlog",
    )
