"""What commands print: tables for people, plain columns for pipes, JSON for programs."""

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Column(NamedTuple):
    """A column of a table."""

    title: str
    right: bool = False
    style: str = ""
    """Of its cells, on a terminal; ``0`` is always dim."""
    wrap: bool = False
    """May be folded where the terminal is narrow."""


def output() -> Console:
    """Return the console of stdout, as it is now."""
    return Console(file=sys.stdout, highlight=False)


def complaints() -> Console:
    """Return the console of stderr, as it is now."""
    return Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """Print a line for people."""
    sys.stdout.write(f"{text}\n")


def remark(text: str) -> None:
    """Print a line beside the data: on stderr."""
    sys.stderr.write(f"pgbus: {text}\n")


def write_json(value: Any, *, line: bool = False) -> None:
    """Print a value as JSON, indented on a terminal unless it is to be one line."""
    encoded = msgspec.json.encode(value, enc_hook=_encode_other)
    if not line and sys.stdout.isatty():
        encoded = msgspec.json.format(encoded, indent=2)
    sys.stdout.write(encoded.decode() + "\n")
    sys.stdout.flush()


def _encode_other(value: Any) -> Any:
    return str(value)


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table for a terminal. Data is never taken for markup."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.wrap,
            overflow="fold" if column.wrap else "ellipsis",
        )
    for row in rows:
        made.add_row(
            *(
                Text(cell, style="dim" if cell in ("0", "-") else column.style)
                for column, cell in zip(columns, row, strict=True)
            )
        )
    return made


def plain(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """Return the same as :func:`table` in plain columns, never cut."""
    lines = [[column.title for column in columns], *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    fit: list[Callable[[str, int], str]] = [
        str.rjust if column.right else str.ljust for column in columns
    ]
    return "\n".join(
        "  ".join(
            pad(cell, width) for pad, cell, width in zip(fit, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: with lines and colours on a terminal, else in plain columns."""
    console = output()
    if console.is_terminal:
        console.print(table(columns, rows))
    else:
        say(plain(columns, rows))


def clean(text: str) -> str:
    """Return text of unknown origin as one that cannot command a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def shorten(text: str, width: int) -> str:
    """Return text of at most ``width`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def age(value: timedelta | None) -> str:
    """Return how long something lasted, with two digits or so: ``4.2 s``, ``12 min``, ``3 d``."""
    if value is None:
        return "-"
    seconds = max(0.0, value.total_seconds())
    if seconds < 0.95:
        return f"{seconds * 1000:.0f} ms"
    for size, unit, next_size in ((1, "s", 60), (60, "min", 3600), (3600, "h", 86400)):
        if seconds < next_size:
            number = seconds / size
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def count(number: int, noun: str) -> str:
    """Return ``1 event``, ``2,000 events``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
