"""Loss, order, exactly once and honest attempts, decided from accounts of the events.

What is redriven: its dead letter and its way back do not count as a loss; in the end there is one
of an acknowledgement, a dead letter, and a dead letter that somebody meant to drop. For the order,
it is published a second time: that began when its publishing began, and ended when its redrive had
been seen to be committed. So it must still come before everything that was published after that;
what else waited in its queue then is judged by its place there (see ``letters``). It has its
effects, and its handler's publishing happens, once, however often it was a dead letter.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec

from tests.torture.account import Account
from tests.torture.audit import Effect
from tests.torture.history import FOLLOW, NEVER, Frame, Pair, Published, follow_up


class Violation(NamedTuple):
    """A law that was broken, and the account of it."""

    law: str
    """L (lost), O (order), X (exclusion), E (exactly once), F (fencing), A (attempts are honest), B
    (not at rest)."""
    account: str


# L: nothing acknowledged is lost, nothing that was rolled back appears.


def loss(account: Account) -> Iterator[Violation]:
    seen = _seen(account)
    for published in account.published.values():
        uid = published.message.uid
        wanted, allowed = _expected(account.frame, published)
        for subscription in wanted | allowed:
            yield from _fate(account, published, subscription, must=subscription in wanted)
        for subscription in seen.get(uid, set()) - wanted - allowed:
            yield Violation("L", f"{_name(published)} appeared in {subscription}")
    for uid in seen.keys() - account.published.keys():
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


def _expected(frame: Frame, published: Published) -> tuple[set[str], set[str]]:
    """The subscriptions that must get an event, and those that may."""
    must: set[str] = set()
    may: set[str] = set()
    if published.fate == "rolled back":
        return must, may
    for declared in frame.declared:
        if published.message.topic not in declared.topics or published.ended < declared.began:
            continue
        if published.fate == "committed" and published.began > declared.at:
            must.add(declared.subscription)
        else:
            may.add(declared.subscription)
    return must, may


def _fate(
    account: Account, published: Published, subscription: str, *, must: bool
) -> Iterator[Violation]:
    pair = (subscription, published.message.uid)
    what = f"{_name(published)} in {subscription}"
    stored = account.times_stored(pair)
    if stored > 1:
        yield Violation("L", f"{what}: stored {stored} times")
    if account.waiting[pair]:
        yield Violation("L", f"{what}: still waits after the end")
    elif stored < 1 and (must or account.times_given_up(pair)):
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
    """Who acknowledged it must have returned from its handler."""
    worker = account.settled[pair][-1].worker
    process = None if worker is None else account.frame.processes.get(worker)
    if process is None or (*pair, process) not in account.returned:
        yield Violation(
            "L",
            f"{what}: was deleted by process {process or 'unknown'}, whose handler never "
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
            heard = _expected(account.frame, published) != (set(), set())
            yield Doubtful(published.batch, published.message.uid in seen, heard)


def torn(events: Iterable[Doubtful]) -> Iterator[Violation]:
    """A call that publishes many stores all or none."""
    batches: dict[str, list[Doubtful]] = defaultdict(list)
    for one in events:
        batches[one.batch].append(one)
    for batch, together in batches.items():
        stored, heard = sum(one.stored for one in together), sum(one.heard for one in together)
        if 0 < stored < heard:
            yield Violation("L", f"batch {batch}: {stored} of {heard} events were stored")


def _name(published: Published) -> str:
    message = published.message
    return f"{message.uid} (key {message.key}, {message.topic}, {published.fate})"


# O: per key, what was published earlier comes earlier.

Moment = tuple[int, Published]
CLOCKS = 1_000_000
"""Nanoseconds that the clock of the database may be off from that of the handlers: both are the
machine's. In more, an event can be delivered, given up and put back."""


def order(account: Account) -> Iterator[Violation]:
    for (subscription, key), events in _by_key(account).items():
        delivered: list[Moment] = []
        settled: list[Moment] = []
        for published in events:
            pair = subscription, published.message.uid
            first = account.begins[pair][0]
            given_up = account.lettered.get(pair)
            # Its workers may have died before they began with it; then a redrive delivers it first.
            if not given_up or first < given_up[0].at:
                delivered.append((first, published))
            settled += [(one.at, published) for one in account.settled.get(pair, ())[:1]]
            for again, moment, place in _again(account, pair, published):
                delivered += [(moment, again)] if moment is not None else []
                settled += [(place, again)] if place is not None else []
        yield from _in_order(delivered, f"first delivery in {subscription}, key {key}")
        yield from _in_order(settled, f"settlement in {subscription}, key {key}")


def _by_key(account: Account) -> dict[Pair, list[Published]]:
    found: dict[Pair, list[Published]] = defaultdict(list)
    for subscription, uid in account.begins:
        published = account.published.get(uid)
        if published is not None and published.message.key is not None:
            found[subscription, published.message.key].append(published)
    return found


def _again(
    account: Account, pair: Pair, published: Published
) -> Iterator[tuple[Published, int | None, int | None]]:
    """An event as its redrives publish it, with when it was then delivered and settled."""
    settlements = account.settled.get(pair, [])
    for number, letter in enumerate(account.redriven.get(pair, ()), start=1):
        over = account.frame.over.get(letter.xid, NEVER)
        # Of one call, those keep their order that are put back at once.
        batch = f"{published.batch} redriven in {letter.xid}"
        again = msgspec.structs.replace(published, batch=batch, ended=over)
        first = next((at for at in account.begins[pair] if at > letter.at - CLOCKS), None)
        yield again, first, settlements[number].at if number < len(settlements) else None


def _in_order(moments: list[Moment], what: str) -> Iterator[Violation]:
    """Nothing may come after something whose publishing began when its own had been committed."""
    latest: Published | None = None
    places: dict[str, Published] = {}
    # At one and the same moment, as a whole batch is settled, any order is none.
    moments.sort(key=lambda one: (one[0], one[1].began, one[1].place))
    for _, published in moments:
        uid = published.message.uid
        if latest is not None and published.ended < latest.began:
            yield Violation("O", f"{what}: {latest.message.uid} came before {uid}")
        if latest is None or published.began > latest.began:
            latest = published
        before = places.get(published.batch)
        if before is not None and published.place < before.place:
            yield Violation("O", f"{what}: {before.message.uid} came before {uid} of the same call")
        places[published.batch] = published


# E: what a handler does through its transaction happens exactly once.


def exactly_once(account: Account) -> Iterator[Violation]:
    pairs = set(account.effective) | {
        pair for pair in account.settled if pair[0] in account.frame.transactional
    }
    for subscription, uid in sorted(pairs):
        times = len(account.effective.get((subscription, uid), []))
        wanted = int(account.times_done((subscription, uid)) > 0)
        if times != wanted:
            yield Violation("E", f"{uid} in {subscription}: {times} effects, not {wanted}")
    yield from _follow_ups(account)
    yield from _overlaps(account)


def _follow_ups(account: Account) -> Iterator[Violation]:
    if FOLLOW not in {one.subscription for one in account.frame.declared}:
        return
    wanted = {
        follow_up(uid, subscription)
        for subscription, uid in account.settled
        if uid in account.published
        and account.published[uid].message.how == "follow"
        and account.times_done((subscription, uid)) > 0
    }
    came = {
        uid: account.times_stored((FOLLOW, uid)) for name, uid in account.settled if name == FOLLOW
    }
    for uid in sorted(wanted | came.keys()):
        times = came.get(uid, 0)
        if times != (uid in wanted):
            expected = "once" if uid in wanted else "never"
            yield Violation("E", f"{uid}: published {times} times by its handler, {expected}")


def _overlaps(account: Account) -> Iterator[Violation]:
    """Two effects of a key were made one after the other: both had its lease to their end."""
    keys: dict[Pair, dict[tuple[int, int], Effect]] = defaultdict(dict)
    for effects in account.effective.values():
        for one in effects:
            if one.key is not None:
                # Those of one batch were made in one call, which began for all of them at once.
                calls = keys[one.subscription, one.key]
                known = calls.setdefault((one.began, one.pid), one)
                if known.ended < one.ended:
                    calls[one.began, one.pid] = one
    for (subscription, key), calls in keys.items():
        for earlier, later in pairwise(calls[call] for call in sorted(calls)):
            if later.began < earlier.ended:
                yield Violation(
                    "X",
                    f"{subscription}, key {key}: {earlier.uid} and {later.uid} were handled "
                    "at once",
                )


# A: what does no harm is not given up, whatever its neighbours do.

HARMFUL = ("fail", "reject", "hang", "gil", "exit", "poison")


def attempts(account: Account, most: int) -> Iterator[Violation]:
    """Each attempt of what became a dead letter was a delivery, or the death of who held its key.

    Parameters:
        most: how many attempts an event is given.
    """
    for pair, letters in account.lettered.items():
        published = account.published.get(pair[1])
        if published is None or published.message.how in HARMFUL:
            continue
        tries = len(account.begins.get(pair, ())) + account.frame.buried[pair[0], letters[0].lane]
        if tries < most:
            yield Violation(
                "A", f"{_name(published)} in {pair[0]}: given up after {tries} attempts at most"
            )
