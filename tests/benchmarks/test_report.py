"""What is printed of several programs together."""

from collections.abc import Sequence

from benchmarks.measure import Series
from benchmarks.report import Figure, Report, markdown, show_overview
from rich.console import Console

MACHINE = (
    "date",
    "cores",
    "CPU",
    "memory",
    "kernel",
    "file system",
    "PostgreSQL",
    "fsync",
    "synchronous_commit",
    "Python",
    "pgbus",
)
FAMILY = "the costs of everything"


def figure(what: str, *values: float, family: str = "", basis: str = "") -> Figure:
    return Figure(
        what=what,
        values=list(values),
        bound="at most",
        wanted=1.3,
        unit="ms",
        family=family,
        basis=basis,
    )


def report(program: str, *figures: Figure, series: Sequence[Series] = ()) -> Report:
    return Report(
        program=program,
        question="how much?",
        setup=[],
        figures=list(figures),
        series=list(series),
        left_out=[],
        machine=dict.fromkeys(MACHINE, "?"),
    )


ONE = report("latency", figure("p50", 2.5, 0.98, 0.5))
MANY = report(
    "growth",
    figure("cost of one", 0.5, family=FAMILY, basis="100 to 1"),
    figure("cost of two", 2.0, family=FAMILY, basis="10 to 1"),
    figure("cost of three", 1.31, family=FAMILY),
)


def overview(*reports: Report) -> list[str]:
    return markdown(reports).split("\n### ")[0].splitlines()


def test_the_overview_has_one_line_for_a_family_which_names_those_missed() -> None:
    missed = "cost of two, 2 ms (10 to 1); cost of three, 1.31 ms"
    assert overview(ONE, MANY)[-2:] == [
        "| latency | p50 | 0.98 ms | 0.5 to 2.5 | at most 1.3 | reached |  |",
        f"| growth | {FAMILY}: 3 figures | 0.5 to 2 ms |  | at most 1.3 | MISSED by 2 | {missed} |",
    ]


def test_a_family_of_which_none_is_missed_says_what_was_compared() -> None:
    values = {0.5: "100 to 1", 1.1: "10 to 1", 1.2: "100 to 1"}
    every = [figure("cost", value, family=FAMILY, basis=basis) for value, basis in values.items()]
    assert overview(ONE, report("growth", *every))[-1].endswith("| reached | 100 to 1; 10 to 1 |")


def test_contenders_are_compared_round_by_round() -> None:
    """Where the machine is slow for a round, it is so for both."""

    def series(contender: str, *values: float) -> Series:
        return Series(shape="alone", contender=contender, unit="/s", values=list(values))

    measured = report("publish", series=[series("pgbus", 10, 2, 9), series("raw", 20, 4, 5)])
    assert "| raw | 2.00" in markdown([measured])


def test_figures_of_one_name_are_no_family() -> None:
    alike = report("handle", figure("10 a key", 0.8), figure("10 a key", 1.1))
    assert markdown([ONE, alike]).count("| 10 a key |") == 4  # here, and in the program's own table


def test_one_program_alone_has_no_overview() -> None:
    assert markdown([MANY]).startswith("### growth")


def test_the_overview_is_printed() -> None:
    console = Console(width=160, record=True)
    show_overview([ONE, MANY], console)
    assert "MISSED by 2" in console.export_text()
