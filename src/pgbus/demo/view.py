"""What the watcher sees: a live view on a terminal, plain lines elsewhere, and the verdict."""

import time

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pgbus import Bus, PgbusError, SubscriptionStatus
from pgbus.demo.ledger import Item, News, Page
from pgbus.demo.meter import HISTORY, Meter
from pgbus.demo.shop import Shop
from pgbus.demo.staff import PATTERNS, Staff
from pgbus.demo.verdict import Verdict
from pgbus.threads.signals import Latch

FRAMES = 10
"""Pictures a second; the counters are the process's own."""
STATUS = 0.4
"""Seconds between two questions to the database."""
HEADLINES = 4
NEWS = 6
WIDE = 96
"""Columns from which sparklines are shown."""
LINE_EVERY = 1.0
"""Seconds between two plain lines."""


class Scene:
    """Everything that is to be seen at one moment."""

    def __init__(
        self, bus: Bus, shop: Shop, staff: Staff, news: News, *, total: int, server: str
    ) -> None:
        self.news = news
        self._bus = bus
        self._shop = shop
        self._pages = staff.pages
        self._total = total
        self._server = server
        self._began = time.monotonic()
        self._meters = {name: Meter() for name in self._pages}
        self._till_meter = Meter()
        self._status: dict[str, SubscriptionStatus] = {}
        self._asked = 0.0

    def look(self, *, now_or_never: bool = False) -> None:
        """Ask the database, if it is time to, or the last time."""
        now = time.monotonic()
        if now - self._asked < STATUS and not now_or_never:
            return
        self._asked = now
        try:
            self._status = {one.name: one for one in self._bus.status()}
        except PgbusError:
            return  # it comes back, or the play says why it does not

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    def line(self) -> str:
        """Return the moment as one line."""
        parts = [f"{self.seconds:5.1f} s  published {self._shop.published:,}"]
        for name, page in self._pages.items():
            status = self._status.get(name)
            part = f"{_short(name)} {page.handlings:,}"
            if status is not None:
                part += (
                    f" (ready {status.ready:,}, in flight {status.in_flight}, "
                    f"waiting {status.delayed}, parked {status.parked}, "
                    f"retries {page.failures}, dead {status.dead_letters})"
                )
            parts.append(part)
        return "  ".join(parts)

    def picture(self, width: int) -> RenderableType:
        """Return the moment as a picture."""
        return Group(
            self._title(),
            Text(),
            self._progress(width),
            Text(),
            self._legend(),
            Text(),
            self._table(width),
            Text(),
            *self._news(width),
        )

    def _title(self) -> RenderableType:
        title = Text.assemble(
            (" pgbus ", "bold black on cyan"), "  a small shop on ", (self._server, "bold")
        )
        grid = Table.grid(expand=True)
        grid.add_column()
        grid.add_column(justify="right")
        grid.add_row(title, Text(f"{self.seconds:.1f} s", style="dim"))
        return grid

    def _progress(self, width: int) -> RenderableType:
        published = self._shop.published
        rate = self._till_meter.read(published)
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(
            total=self._total,
            completed=published,
            width=max(10, min(48, width - 48)),
            complete_style="cyan",
            finished_style="green",
        )
        told = f"{published:,} of {self._total:,}"
        speed = f"{rate:,.0f}/s" if self._shop.open else "closed"
        grid.add_row(Text("published", style="bold"), bar, told, Text(speed, style="cyan"))
        return grid

    def _legend(self) -> Text:
        legend = Text()
        for name, patterns in PATTERNS.items():
            legend.append("   " if legend else "")
            legend.append(f"{_short(name)} ", "bold")
            legend.append(" + ".join(patterns), "cyan")
        return legend

    def _table(self, width: int) -> RenderableType:
        wide = width >= WIDE
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("")
        for title in ("handled", "rate"):
            table.add_column(title, justify="right", min_width=7, no_wrap=True)
        if wide:
            table.add_column("", min_width=HISTORY)
        for title in ("ready", "in flight", "waiting", "parked", "retries", "dead"):
            table.add_column(title, justify="right", min_width=len(title), no_wrap=True)
        for name, page in self._pages.items():
            rate = self._meters[name].read(page.handlings)
            cells = [Text(_short(name), style="bold")]
            cells += [Text(f"{page.handlings:,}"), Text(f"{rate:,.0f}/s", style="green")]
            if wide:
                cells.append(Text(self._meters[name].spark(), style="green"))
            table.add_row(*cells, *self._counts(name, page))
        return table

    def _counts(self, name: str, page: Page) -> list[Text]:
        status = self._status.get(name)
        retries = _number(page.failures, "yellow")
        if status is None:
            return [Text("-", style="dim")] * 4 + [retries, Text("-", style="dim")]
        return [
            _number(status.ready, ""),
            _number(status.in_flight, "green"),
            _number(status.delayed, "cyan"),
            _number(status.parked, "yellow"),
            retries,
            _number(status.dead_letters, "bold red"),
        ]

    def _news(self, width: int) -> list[Text]:
        shown = []
        # Always as many lines, so that the picture does not jump.
        for items, most in ((self.news.headlines, HEADLINES), (self.news.rest, NEWS)):
            lines = [_news_line(item) for item in list(items.copy())[-most:]]
            shown += lines + [Text()] * (most - len(lines))
        for line in shown:
            line.truncate(width, overflow="ellipsis")
        return shown


def _short(name: str) -> str:
    return name.removeprefix("demo_")


def _number(value: int, style: str) -> Text:
    return Text(f"{value:,}", style=style if value else "dim")


def _news_line(item: Item) -> Text:
    return Text.assemble((f"{item.who:<9}", "bold"), (item.text, item.style), no_wrap=True)


def show(console: Console, scene: Scene, over: Latch) -> None:
    """Show what happens until it is over."""
    if console.is_terminal:
        _show_live(console, scene, over)
    else:
        _show_lines(console, scene, over)


def _show_live(console: Console, scene: Scene, over: Latch) -> None:
    with Live(console=console, auto_refresh=False) as live:
        ended = False
        while not ended:
            ended = over.wait(1 / FRAMES)
            scene.look(now_or_never=ended)
            live.update(scene.picture(console.width), refresh=True)


def _show_lines(console: Console, scene: Scene, over: Latch) -> None:
    ended = False
    told = 0
    while not ended:
        ended = over.wait(LINE_EVERY)
        scene.look(now_or_never=ended)
        for item in list(scene.news.headlines.copy())[told:]:
            console.print(f"         {item.who}: {item.text}", markup=False, soft_wrap=True)
            told += 1
        console.print(scene.line(), markup=False, soft_wrap=True)
        console.file.flush()


def show_verdict(
    console: Console, verdict: Verdict, events: int, ready: float, seconds: float
) -> None:
    """Show every check, and the sum of them."""
    if console.is_terminal:
        console.print(Rule("verdict", style="dim", align="left"))
    else:
        console.print("verdict")
    for check in verdict.checks:
        mark, style = ("✓", "green") if check.kept else ("✗", "bold red")
        line = Text.assemble(
            (f" {mark} ", style), (f"{check.promise:<22}", "bold"), (check.detail, "")
        )
        console.print(line, soft_wrap=True)
    word, style = ("good", "bold green") if verdict.good else ("BAD", "bold red")
    console.print(
        Text.assemble(
            "   verdict: ",
            (word, style),
            (f"  ({events:,} events in {seconds:.1f} s, after {ready:.1f} s of setting up)", "dim"),
        ),
        soft_wrap=True,
    )
