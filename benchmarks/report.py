"""What a program prints and writes: ratios first, then everything that was measured."""

import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.machine import summary
from benchmarks.measure import Series, ratios

Bound = Literal["at least", "at most"]


class Figure(msgspec.Struct, kw_only=True):
    """A figure to reach, and what was reached."""

    what: str
    values: list[float]
    """What was reached in each round, or once."""
    bound: Bound
    wanted: float
    unit: str = "×"
    basis: str = ""
    """What was compared with what."""
    only: str = ""
    """What less than intended it was measured at, where that is too little to say "reached"."""
    family: str = ""
    """What it is one of many of, which are one line of an overview."""

    @property
    def reached(self) -> float:
        """The middle of what was reached."""
        return statistics.median(self.values)

    @property
    def missed(self) -> bool:
        """Whether it was not reached: what is too dear at less than intended is so at more."""
        if self.bound == "at least":
            return self.reached < self.wanted
        return self.reached > self.wanted

    @property
    def verdict(self) -> str:
        """What to say of it in a word, or in a few."""
        if self.missed:
            return "MISSED"
        return f"only at {self.only}" if self.only else "reached"

    @property
    def met(self) -> bool:
        """Whether it was reached, and at what was intended."""
        return self.verdict == "reached"


def compared(
    what: str,
    one: Series | None,
    other: Series | None,
    bound: Bound,
    wanted: float,
    *,
    basis: str = "",
    family: str = "",
) -> list[Figure]:
    """Return the figure of one contender compared with another; none where one was not measured."""
    if one is None or other is None or not (found := ratios(one, other)):
        return []
    return [
        Figure(
            what=what,
            values=found,
            bound=bound,
            wanted=wanted,
            basis=basis or other.contender,
            family=family,
        )
    ]


class Report(msgspec.Struct, kw_only=True):
    """One program's results."""

    program: str
    question: str
    setup: list[str]
    figures: list[Figure]
    series: list[Series]
    left_out: list[str]
    machine: dict[str, str]
    baseline: str = "pgbus"
    """The contender whose ratio to each other one is shown."""
    remarks: list[str] = []


def ratio(report: Report, one: Series) -> str:
    """Return how one contender compares with the baseline of its shape: ``0.42×``."""
    for other in report.series:
        if other.shape == one.shape and other.contender == report.baseline:
            found = ratios(one, other)
            return f"{statistics.median(found):.2f}×" if found else ""
    return ""


def number(value: float) -> str:
    """Return a number with three digits or so: ``1,230,000``, ``12.3``, ``0.042``."""
    if value >= 1000:
        return f"{round(value, -len(str(int(value))) + 3):,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _spread(values: Sequence[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}"


def _figure_rows(figures: Sequence[Figure]) -> Sequence[Sequence[str]]:
    return [
        (
            one.what,
            _with_unit(number(one.reached), one),
            _spread(one.values) if len(one.values) > 1 else "",
            f"{one.bound} {number(one.wanted)}",
            one.verdict,
            one.basis,
        )
        for one in figures
    ]


def _overview_rows(reports: Sequence[Report]) -> Sequence[Sequence[str]]:
    rows = []
    for report in reports:
        name = report.program
        for _, group in groupby(report.figures, lambda one: one.family or id(one)):
            rows.append((name, *_overview_row(list(group))))
            name = ""
    return rows


def _overview_row(group: Sequence[Figure]) -> Sequence[str]:
    if len(group) == 1:
        [row] = _figure_rows(group)
        return row
    missed = [one for one in group if one.missed]
    compared_with = [_missed(one) for one in missed] or dict.fromkeys(one.basis for one in group)
    return (
        f"{group[0].family}: {len(group)} figures",
        _with_unit(_spread([one.reached for one in group]), group[0]),
        "",
        f"{group[0].bound} {number(group[0].wanted)}",
        f"MISSED by {len(missed)}" if missed else max(group, key=lambda one: one.only).verdict,
        "; ".join(compared_with),
    )


def _missed(one: Figure) -> str:
    """Return what of a family was missed: ``cost of take: 1 key, 1.41× (9 waiting to 1)``."""
    reached = f"{one.what}, {_with_unit(number(one.reached), one)}"
    return f"{reached} ({one.basis})" if one.basis else reached


def _with_unit(text: str, one: Figure) -> str:
    return text + (one.unit if one.unit == "×" else f" {one.unit}")


def _series_rows(report: Report) -> Sequence[Sequence[str]]:
    rows = []
    last = ""
    for one in report.series:
        rows.append(
            (
                "" if one.shape == last else one.shape,
                one.contender,
                ratio(report, one),
                f"{number(one.median)} {one.unit}",
                _spread(one.values) if len(one.values) > 1 else "one run",
                one.note,
            )
        )
        last = one.shape
    return rows


_FIGURES = ("Figure", "Reached", "Rounds", "Wanted", "", "Compared")
_OVERVIEW = ("Program", *_FIGURES)


def _titles(report: Report) -> tuple[str, ...]:
    return ("Shape", "Contender", f"To {report.baseline}", "Median", "Spread", "Note")


def show(report: Report, console: Console) -> None:
    """Print a report."""
    console.print(Text(f"\n{report.program}: {report.question}", style="bold"))
    for line in report.setup:
        console.print(Text(f"  {line}"))
    if report.figures:
        console.print(_table(_FIGURES, _figure_rows(report.figures)))
    console.print(_table(_titles(report), _series_rows(report)))
    for line in (*report.remarks, *(f"left out: {line}" for line in report.left_out)):
        console.print(Text(f"  {line}"))
    console.print(Text(f"  {summary(report.machine)}", style="dim"))


def show_overview(reports: Sequence[Report], console: Console) -> None:
    """Print the figures to reach of several programs."""
    console.print(Text("\nfigures to reach", style="bold"))
    console.print(_table(_OVERVIEW, _overview_rows(reports)))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in titles:
        right = title in ("Reached", "Median") or title.startswith("To ")
        made.add_column(title, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    return made


def _style(cell: str) -> str:
    return "bold red" if cell.startswith(("MISSED", "only at")) else ""


def markdown(reports: Sequence[Report]) -> str:
    """Return reports as Markdown, for the README and the documentation."""
    parts = []
    if len(reports) > 1:
        parts.append("### Figures to reach\n")
        parts.append(_markdown_table(_OVERVIEW, _overview_rows(reports)))
    for report in reports:
        parts.append(f"### {report.program}: {report.question}\n")
        parts.append("".join(f"- {line}\n" for line in report.setup))
        if report.figures:
            parts.append(_markdown_table(_FIGURES, _figure_rows(report.figures)))
        parts.append(_markdown_table(_titles(report), _series_rows(report)))
        lines = [*report.remarks, *(f"left out: {line}" for line in report.left_out)]
        if lines:
            parts.append("".join(f"- {line}\n" for line in lines))
    if reports:
        parts.append(f"_{summary(reports[0].machine)}_\n")
    return "\n".join(parts)


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def write_json(reports: Sequence[Report], path: Path) -> None:
    """Write reports, with every value of every round."""
    found = [
        {
            **msgspec.to_builtins(report),
            "figures": [
                {
                    **msgspec.to_builtins(one),
                    "reached": one.reached,
                    "met": one.met,
                    "verdict": one.verdict,
                }
                for one in report.figures
            ],
            "series": [
                {**msgspec.to_builtins(one), "median": one.median, "low": one.low, "high": one.high}
                for one in report.series
            ],
        }
        for report in reports
    ]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
