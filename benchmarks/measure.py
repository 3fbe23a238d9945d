"""Cases, rounds, and what came of them.

Whatever is compared is measured in turns: round after round, each contender once, one soon after
the other. So what the machine does meanwhile hits them alike, and they are compared round by round:
the ratio of two is the median of their ratios in each round, which stays true where a machine is
twice as fast in one round as in the next. The first round is a warm-up and is not counted.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec


class Series(msgspec.Struct, kw_only=True):
    """What one contender reached in one shape, one value a round."""

    shape: str
    contender: str
    unit: str
    values: list[float]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest value."""
        return max(self.values)


def ratios(one: Series, other: Series) -> list[float]:
    """Return how one contender compares with another, in each round that both were in.

    They were measured by one call of :func:`rounds`, so that values in one place are of one round.
    """
    pairs = zip(one.values, other.values, strict=False)
    return [ours / theirs for ours, theirs in pairs if theirs]


@dataclass(frozen=True)
class Case:
    """One contender in one shape.

    Parameters:
        run: measures once and returns the value, in ``unit``.
        ours: pgbus's own: that it fails is an error of the run.
    """

    shape: str
    contender: str
    run: Callable[[], float]
    unit: str = "events/s"
    note: str = ""
    ours: bool = False


class Missing(Exception):
    """A contender cannot take part; the message says why."""


Tell = Callable[[str], None]


def rounds(
    cases: Sequence[Case],
    repeat: int,
    *,
    warm_up: bool = True,
    tell: Tell,
    left_out: list[str],
) -> list[Series]:
    """Measure cases in turns; one that fails is left out, with a line that says why."""
    found: dict[int, Series] = {}
    failed: set[int] = set()
    for number in range(repeat + warm_up):
        for place, case in enumerate(cases):
            if place in failed:
                continue
            tell(f"{case.shape}: {case.contender}")
            try:
                value = case.run()
            except Exception as error:  # a peer's errors are of many libraries
                failed.add(place)
                after = f" after {len(found[place].values)} rounds" if place in found else ""
                left_out.append(f"{case.contender} in {case.shape!r}{after}: {_why(error)}")
                if case.ours:
                    raise
                continue
            if number or not warm_up:
                found.setdefault(
                    place,
                    Series(
                        shape=case.shape,
                        contender=case.contender,
                        unit=case.unit,
                        values=[],
                        note=case.note,
                    ),
                ).values.append(value)
    return [found[place] for place in sorted(found)]


def _why(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return text if isinstance(error, Missing) else f"{type(error).__name__}: {text}"


def rate(count: int, work: Callable[[], object]) -> float:
    """Do the work and return how many of ``count`` it did in a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)
