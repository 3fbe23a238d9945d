"""Program 3: how long does an event take from its publisher to its handler?"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import quantiles

from benchmarks.crowd import crowd
from benchmarks.measure import Case, Series
from benchmarks.orders import orders
from benchmarks.pace import Paced, too_slow
from benchmarks.report import Figure, Report
from benchmarks.run import Opened, Run, describe, find
from benchmarks.tally import Job

RATES = {10: 1, 500: 1, 2_000: 4}
"""Events a second, and how many callers publish them one by one."""
SECONDS = {10: 12.0, 500: 4.0, 2_000: 3.0}
"""How long each lasts at most: a percentile wants a hundred events."""
SETTLE = 0.5
"""Seconds that a consumer gets to fall idle before the first event."""
PATIENCE = 30.0
"""Seconds after which an event that was not handled is lost."""
MEASURES = ("p50", "p99", "max")


def latency(run: Run) -> Report:
    """Measure the time from publisher to handler, and compare."""
    names = run.present()
    seconds = _seconds(run)
    series = []
    with ExitStack() as stack:
        contenders = [stack.enter_context(run.contender(name, "order")) for name in names]
        for rate, callers in RATES.items():
            series += _at(run, contenders, rate, callers, seconds[rate])
    return Report(
        program="latency",
        question="how long does an event take from its publisher to its handler?",
        setup=[
            "from the call that publishes it, one by one, to the call of its handler elsewhere",
            f"{_durations(seconds)}, of which the first tenth is not counted",
            f"an event that is not handled within {PATIENCE:.0f} s is a failure",
            "one process publishes (by 4 callers at 2,000 events/s), another handles, idle before",
            run.method.replace("events/s", "milliseconds"),
            *describe(names),
        ],
        figures=_figures(series),
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
    )


def _seconds(run: Run) -> dict[int, float]:
    scale = min(1.0, run.events / 10_000)
    return {rate: max(0.5, min(most * scale, run.seconds / 4)) for rate, most in SECONDS.items()}


def _durations(seconds: Mapping[int, float]) -> str:
    return ", ".join(f"{rate:,} events/s for {span:.1f} s" for rate, span in seconds.items())


def _at(
    run: Run, contenders: Sequence[Opened], rate: int, callers: int, seconds: float
) -> list[Series]:
    taken: dict[str, list[list[float]]] = {one.title: [] for one in contenders}
    rates: dict[str, list[float]] = {one.title: [] for one in contenders}

    def case(one: Opened) -> Case:
        def once() -> float:
            delays, reached = _once(one, rate, callers, seconds)
            taken[one.title].append(_measures(delays))
            rates[one.title].append(reached)
            return taken[one.title][-1][0]

        return Case(f"{rate:,} events/s, p50", one.title, once, unit="ms", ours=one.ours)

    found = run.rounds([case(one) for one in contenders])
    series = []
    for place, measure in enumerate(MEASURES):
        for one in found:
            rounds = taken[one.contender][-len(one.values) :]
            reached = min(rates[one.contender][-len(one.values) :])
            slow = too_slow(reached, rate)
            note = f"published {slow} only" if slow else ""
            series.append(
                Series(
                    shape=f"{rate:,} events/s, {measure}",
                    contender=one.contender,
                    unit="ms",
                    values=[values[place] for values in rounds],
                    note=note,
                )
            )
    return series


def _once(one: Opened, rate: int, callers: int, seconds: float) -> tuple[list[float], float]:
    """Publish for some seconds; return the delays in milliseconds and the rate reached."""
    total = max(int(rate * seconds), 10)
    one.peer.publish_each(orders(callers, callers), callers)  # each connects, and before the clock
    one.peer.clear("order")
    with crowd(one.name, one.dsn, Job("order"), delays=total) as consumers:
        time.sleep(SETTLE)
        paced = Paced(rate, range(total))
        start = time.monotonic()
        one.peer.publish_each(paced, callers)
        took = time.monotonic() - start
        consumers.reach(len(paced.given), PATIENCE)
    return measured(paced.given, consumers.tallies[0].delays), len(paced.given) / took


def measured(published: Sequence[int], delays: Sequence[float]) -> list[float]:
    """Return how many milliseconds the published events took, but for the first tenth.

    Raises:
        RuntimeError: some were not handled, whose delay is 0 therefore.
    """
    lost = sum(not delays[number] for number in published)
    if lost:
        raise RuntimeError(f"{lost:,} of {len(published):,} events were not handled")
    return [1000 * delays[number] for number in published if number >= len(delays) // 10]


def _measures(delays: Sequence[float]) -> list[float]:
    cuts = quantiles(delays, n=100, method="inclusive")
    return [cuts[49], cuts[98], max(delays)]


def _figures(series: Sequence[Series]) -> list[Figure]:
    found = []
    for measure, most in (("p50", 3.0), ("p99", 15.0)):
        ours = find(series, f"500 events/s, {measure}", "pgbus")
        if ours is not None:
            found.append(
                Figure(
                    what=f"{measure} from publish to handler at 500 events/s",
                    values=ours.values,
                    bound="at most",
                    wanted=most,
                    unit="ms",
                )
            )
    return found
