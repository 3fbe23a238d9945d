"""Nothing acknowledged is lost, nothing that was rolled back appears: decided from accounts.

An event whose publisher does not know its fate may be there or not, and so may one that was being
published while a subscription was declared. But once it was seen anywhere, it was committed: it
must be in every subscription that was declared before, and must have come to an end wherever it was
delivered.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.torture.account import Account
from tests.torture.history import FOLLOW, NEVER, Frame, Pair, Published
from tests.torture.laws import CLOCKS, Violation


def loss(account: Account) -> Iterator[Violation]:
    seen = _seen(account)
    for published in account.published.values():
        uid = published.message.uid
        there = seen.get(uid, set())
        wanted, allowed = _expected(account.frame, published, seen=bool(there))
        for subscription in wanted | allowed:
            yield from _fate(account, published, subscription, must=subscription in wanted)
        for subscription in there - wanted - allowed:
            yield Violation("L", f"{published.label} appeared in {subscription}")
    for uid in seen.keys() - account.published.keys():
        if FOLLOW in seen[uid]:
            yield from _end(account, (FOLLOW, uid), f"{uid} in {FOLLOW}", must=False)
        strangers = {one for one in seen[uid] if one != FOLLOW}
        if strangers:
            yield Violation("L", f"{uid} appeared in {sorted(strangers)}; nobody published it")


def _seen(account: Account) -> dict[str, set[str]]:
    """The subscriptions in which each uid appeared in any way."""
    seen: dict[str, set[str]] = defaultdict(set)
    for pairs in (account.begins, account.settled, account.buried, account.waiting):
        for subscription, uid in pairs:
            seen[uid].add(subscription)
    return seen


def _expected(frame: Frame, published: Published, *, seen: bool) -> tuple[set[str], set[str]]:
    """The subscriptions that must get an event, and those that may.

    Parameters:
        seen: whether it was seen in any of them.
    """
    must: set[str] = set()
    may: set[str] = set()
    if published.fate == "rolled back":
        return must, may
    for declared in frame.declared:
        if published.message.topic not in declared.topics or published.ended < declared.began:
            continue
        if (seen or published.fate == "committed") and published.began > declared.at:
            must.add(declared.subscription)
        else:
            may.add(declared.subscription)
    return must, may


def _fate(
    account: Account, published: Published, subscription: str, *, must: bool
) -> Iterator[Violation]:
    pair = (subscription, published.message.uid)
    what = f"{published.label} in {subscription}"
    stored = account.times_stored(pair)
    if stored > 1:
        yield Violation("L", f"{what}: stored {stored} times")
    yield from _end(account, pair, what, must=must)


def _end(account: Account, pair: Pair, what: str, *, must: bool) -> Iterator[Violation]:
    """What must be there, or was seen to be, is handled or a dead letter."""
    there = account.begins.get(pair) or account.times_given_up(pair)
    if account.waiting[pair]:
        yield Violation("L", f"{what}: still waits after the end")
    elif account.times_stored(pair) < 1 and (must or there):
        yield Violation("L", f"{what}: is neither handled nor a dead letter, and not in its queue")
    yield from _letters(account, pair, what)
    if account.times_done(pair) > 0:
        yield from _handled(account, pair, what)


def _letters(account: Account, pair: Pair, what: str) -> Iterator[Violation]:
    """A dead letter is one, and stays until somebody puts it back or means to drop it."""
    letters, dropped = account.buried[pair], account.dropped[pair]
    became = len(account.lettered.get(pair, ()))
    kept = became - len(account.redriven.get(pair, ())) - dropped
    if letters > 1:
        yield Violation("L", f"{what}: became {letters} dead letters")
    if letters != kept:
        yield Violation("L", f"{what}: {letters} dead letters in the end, not {kept}")
    if account.times_done(pair) < 0:
        yield Violation("L", f"{what}: became a dead letter and stayed an event")
    if dropped and pair not in account.frame.dropping:
        yield Violation("L", f"{what}: its dead letter was dropped, and nobody meant to")


def _handled(account: Account, pair: Pair, what: str) -> Iterator[Violation]:
    """Who acknowledged it must have returned from its handler before, and since it was put back."""
    *before, last = account.settled[pair]
    process = None if last.worker is None else account.frame.processes.get(last.worker)
    since = before[-1].when if before else -NEVER
    returns = [] if process is None else account.returned.get((*pair, process), [])
    if not any(since - CLOCKS < at < last.when + CLOCKS for at in returns):
        yield Violation(
            "L",
            f"{what}: was deleted by process {process or 'unknown'}, whose handler had not "
            "returned, and is no dead letter",
        )


class Doubtful(NamedTuple):
    """An event whose publisher does not know what became of it."""

    batch: str
    stored: bool
    heard: bool
    """Whether anybody listens to its topic: else it cannot be seen."""


def doubtful(account: Account) -> Iterator[Doubtful]:
    """The events of unknown fate, for :func:`torn`: those of one call are in several accounts."""
    seen = _seen(account)
    for published in account.published.values():
        if published.fate == "unknown":
            stored = published.message.uid in seen
            heard = _expected(account.frame, published, seen=stored) != (set(), set())
            yield Doubtful(published.batch, stored, heard)


def torn(events: Iterable[Doubtful]) -> Iterator[Violation]:
    """A call that publishes many stores all or none."""
    batches: dict[str, list[Doubtful]] = defaultdict(list)
    for one in events:
        batches[one.batch].append(one)
    for batch, together in batches.items():
        stored, heard = sum(one.stored for one in together), sum(one.heard for one in together)
        if 0 < stored < heard:
            yield Violation("L", f"batch {batch}: {stored} of {heard} events were stored")
