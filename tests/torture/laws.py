"""Order, exactly once and honest attempts, decided from accounts of the events.

What is redriven: its dead letter and its way back do not count as a loss; in the end there is one
of an acknowledgement, a dead letter, and a dead letter that somebody meant to drop. For the order,
it is published a second time: that began when its publishing began, and ended when its redrive had
been seen to be committed. So it must still come before everything that was published after that;
what else waited in its queue then is judged by its place there (see ``letters``). It has its
effects, and its handler's publishing happens, once, however often it was a dead letter.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec

from tests.torture.account import Account
from tests.torture.audit import Effect
from tests.torture.history import FOLLOW, NEVER, Pair, Published, follow_up


class Violation(NamedTuple):
    """A law that was broken, and the account of it."""

    law: str
    """L (lost), O (order), X (exclusion), E (exactly once), F (fencing), A (attempts are honest), B
    (not at rest)."""
    account: str


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
    yield from _follow_ups_in_order(account)


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


def _follow_ups_in_order(account: Account) -> Iterator[Violation]:
    """What handlers publish comes in the order in which they were done with what they handled.

    That is known of events with one key in one subscription, whose lease they had in turn.
    """
    delivered: dict[Pair, list[Moment]] = defaultdict(list)
    settled: dict[Pair, list[Moment]] = defaultdict(list)
    for (subscription, uid), settlements in account.settled.items():
        published = account.published.get(uid)
        key = None if published is None else published.message.key
        if published is None or key is None:
            continue
        message = published.message._replace(uid=follow_up(uid, subscription))
        pair = FOLLOW, message.uid
        if account.times_done((subscription, uid)) < 1 or pair not in account.settled:
            continue
        place = settlements[-1].at
        follow = Published(message, message.uid, 0, place, place, "committed")
        settled[subscription, key].append((account.settled[pair][0].at, follow))
        # Its workers may have died before they began with it.
        begins = account.begins.get(pair, [])[:1]
        delivered[subscription, key] += [(at, follow) for at in begins]
    for moments, what in ((delivered, "first delivery"), (settled, "settlement")):
        for (subscription, key), some in moments.items():
            yield from _in_order(some, f"{what} of what {subscription} published, key {key}")


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


# A: nothing is given up before its attempts are used up, whatever its neighbours do.

AT_ONCE = "reject"
"""What such an event asks for is to be given up at its first attempt."""


def attempts(account: Account, most: int) -> Iterator[Violation]:
    """Each attempt of what became a dead letter was a delivery, or the death of who held its key.

    What is redriven has all of them again.

    Parameters:
        most: how many attempts an event is given.
    """
    for pair, letters in account.lettered.items():
        published = account.published.get(pair[1])
        if published is not None and published.message.how == AT_ONCE:
            continue
        since = 0 if published is None else published.began
        for letter in letters:
            deaths = account.frame.buried.get((pair[0], letter.lane), [])
            begins = account.begins.get(pair, [])
            tries = sum(
                since - CLOCKS < at < letter.at + CLOCKS for some in (begins, deaths) for at in some
            )
            if tries < most:
                what = pair[1] if published is None else published.label
                yield Violation(
                    "A", f"{what} in {pair[0]}: given up after {tries} attempts at most"
                )
            since = letter.at
