"""The verdict: what was published against what the handlers saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgbus import Receipt
from pgbus.demo.events import AnyOrderEvent, OrderPaid
from pgbus.demo.ledger import Mark, Page
from pgbus.demo.shop import UNKNOWN_CURRENCY
from pgbus.demo.staff import BILLING, WANTED


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and whether it was kept."""

    promise: str
    kept: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of the dead letter; the stage writes it."""

    found: Sequence[Mark]
    """The dead letters that there were."""
    waited: int
    """How many later events were parked behind them."""
    redriven: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return all(check.kept for check in self.checks)


def judge(
    story: Sequence[AnyOrderEvent],
    receipts: Sequence[Receipt],
    pages: Mapping[str, Page],
    repair: Repair,
) -> Verdict:
    """Compare a story with the ledger."""
    return Verdict(
        (
            _nothing_lost(story, receipts, pages),
            _in_order(pages),
            _one_at_a_time(pages),
            _retried(pages),
            _repaired(story, pages, repair),
        )
    )


def wanted(name: str, story: Sequence[AnyOrderEvent]) -> set[Mark]:
    """Return the events that a subscription should get."""
    return {(one.order_id, one.step) for one in story if isinstance(one, WANTED[name])}


def _nothing_lost(
    story: Sequence[AnyOrderEvent], receipts: Sequence[Receipt], pages: Mapping[str, Page]
) -> Check:
    kept = len(receipts) == len(story)
    told = []
    owed = 0
    for name, page in pages.items():
        due, seen = wanted(name, story), page.marks
        owed += len(due)
        kept = kept and due == seen
        told.append(f"{name.removeprefix('demo_')} {len(due & seen):,} of {len(due):,}")
    # Others may have subscriptions of their own that match.
    kept = kept and sum(receipt.queues for receipt in receipts) >= owed
    return Check("nothing lost", kept, ", ".join(told))


def _in_order(pages: Mapping[str, Page]) -> Check:
    wrong = [
        f"{name.removeprefix('demo_')}: order {order} {steps}"
        for name, page in pages.items()
        for kind in (page.delivered, page.handled)
        for order, steps in kind.items()
        if steps != sorted(steps)
    ]
    orders = {order for page in pages.values() for order in page.handled}
    detail = wrong[0] if wrong else f"{len(orders):,} orders, as delivered first and as handled"
    return Check("every key in order", not wrong, detail)


def _one_at_a_time(pages: Mapping[str, Page]) -> Check:
    overlaps = sum(page.overlaps for page in pages.values())
    detail = f"{overlaps} times" if overlaps else "never"
    return Check("one at a time", not overlaps, f"an order was in two hands: {detail}")


def _retried(pages: Mapping[str, Page]) -> Check:
    failed = {(name, mark) for name, page in pages.items() for mark in page.failed}
    made_good = {(name, mark) for name, mark in failed if mark in pages[name].marks}
    attempts = sum(page.failures for page in pages.values())
    detail = f"{attempts:,} attempts at {len(failed):,} events failed; {len(made_good):,} made good"
    return Check("failures retried", bool(failed) and failed == made_good, detail)


def _repaired(story: Sequence[AnyOrderEvent], pages: Mapping[str, Page], repair: Repair) -> Check:
    poisoned = [
        (one.order_id, one.step)
        for one in story
        if isinstance(one, OrderPaid) and one.currency == UNKNOWN_CURRENCY
    ]
    page = pages[BILLING]
    kept = (
        len(poisoned) == 1
        and list(repair.found) == poisoned
        and repair.redriven == 1
        and poisoned[0] in page.marks
    )
    order = poisoned[0][0] if poisoned else "-"
    detail = (
        f"order {order}: {len(repair.found)} dead letter, {repair.waited} parked behind it, "
        f"{repair.redriven} redriven and handled"
    )
    return Check("dead letter redriven", kept, detail)


def as_object(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as an object of JSON."""
    return {
        "good": verdict.good,
        "checks": [
            {"promise": check.promise, "kept": check.kept, "detail": check.detail}
            for check in verdict.checks
        ],
    }
