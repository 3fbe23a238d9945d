"""Loss, order and exactly once, decided from a history."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from tests.torture.history import FOLLOW, History, Published, follow_up

Pair = tuple[str, str]


class Violation(NamedTuple):
    """A law that was broken, and the account of it."""

    law: str
    """L (lost), O (order), X (exclusion), E (exactly once), F (fencing), B (not at rest)."""
    account: str


# L: nothing acknowledged is lost, nothing that was rolled back appears.


def loss(history: History) -> Iterator[Violation]:
    seen = _seen(history)
    for published in history.published.values():
        uid = published.message.uid
        wanted, allowed = _expected(history, published)
        for subscription in wanted | allowed:
            yield from _fate(history, published, subscription, must=subscription in wanted)
        for subscription in seen.get(uid, set()) - wanted - allowed:
            yield Violation("L", f"{_name(published)} appeared in {subscription}")
    yield from _torn(history)
    for uid in seen.keys() - history.published.keys():
        strangers = {one for one in seen[uid] if one != FOLLOW}
        if strangers:
            yield Violation("L", f"{uid} appeared in {sorted(strangers)}; nobody published it")
    if not history.drained:
        yield Violation("B", f"the bus did not come to rest: {len(history.left)} events wait")
    for broken in history.broken:
        yield Violation(
            "B", f"{broken.role} {broken.pid} ended by itself, with the exit code {broken.code}"
        )


def _seen(history: History) -> dict[str, set[str]]:
    """The subscriptions in which each uid appeared in any way."""
    seen: dict[str, set[str]] = defaultdict(set)
    for pairs in (history.first_begins, history.settled, history.buried, history.waiting):
        for subscription, uid in pairs:
            seen[uid].add(subscription)
    return seen


def _expected(history: History, published: Published) -> tuple[set[str], set[str]]:
    """The subscriptions that must get an event, and those that may."""
    must: set[str] = set()
    may: set[str] = set()
    if published.fate == "rolled back":
        return must, may
    for declared in history.declared:
        if published.message.topic not in declared.topics or published.ended < declared.began:
            continue
        if published.fate == "committed" and published.began > declared.at:
            must.add(declared.subscription)
        else:
            may.add(declared.subscription)
    return must, may


def _fate(
    history: History, published: Published, subscription: str, *, must: bool
) -> Iterator[Violation]:
    uid = published.message.uid
    pair = (subscription, uid)
    settled = history.settled.get(pair, [])
    letters = history.buried.get(pair, 0)
    waiting = history.waiting.get(pair, 0)
    what = f"{_name(published)} in {subscription}"
    if len(settled) + waiting > 1:
        yield Violation("L", f"{what}: stored {len(settled) + waiting} times")
    if waiting:
        yield Violation("L", f"{what}: still waits after the end")
    elif not settled and (must or letters):
        yield Violation("L", f"{what}: is neither handled nor a dead letter, and not in its queue")
    if letters > 1:
        yield Violation("L", f"{what}: became {letters} dead letters")
    if settled and not letters and not waiting:
        yield from _handled(history, pair, what)


def _handled(history: History, pair: Pair, what: str) -> Iterator[Violation]:
    """Who acknowledged it must have returned from its handler."""
    worker = history.settled[pair][-1].worker
    process = None if worker is None else history.processes.get(worker)
    if process is None or (*pair, process) not in history.returned:
        yield Violation(
            "L",
            f"{what}: was deleted by process {process or 'unknown'}, whose handler never "
            "returned, and is no dead letter",
        )


def _torn(history: History) -> Iterator[Violation]:
    """A call that publishes many stores all or none."""
    batches: dict[str, list[Published]] = defaultdict(list)
    for published in history.published.values():
        if published.fate == "unknown":
            batches[published.batch].append(published)
    seen = _seen(history)
    for batch, events in batches.items():
        stored = [one for one in events if one.message.uid in seen]
        # Those of topics that nobody listens to cannot be seen.
        heard = [one for one in events if _expected(history, one) != (set(), set())]
        if stored and len(stored) < len(heard):
            yield Violation("L", f"batch {batch}: {len(stored)} of {len(heard)} events were stored")


def _name(published: Published) -> str:
    message = published.message
    return f"{message.uid} (key {message.key}, {message.topic}, {published.fate})"


# O: per key, what was published earlier comes earlier.


def order(history: History) -> Iterator[Violation]:
    for (subscription, key), uids in _by_key(history).items():
        first = [(history.first_begins[subscription, uid].at, uid) for uid in uids]
        yield from _in_order(history, first, f"first delivery in {subscription}, key {key}")
        ended = [
            (history.settled[subscription, uid][0].at, uid)
            for uid in uids
            if (subscription, uid) in history.settled
        ]
        yield from _in_order(history, ended, f"settlement in {subscription}, key {key}")


def _by_key(history: History) -> dict[Pair, list[str]]:
    found: dict[Pair, list[str]] = defaultdict(list)
    for subscription, uid in history.first_begins:
        published = history.published.get(uid)
        if published is not None and published.message.key is not None:
            found[subscription, published.message.key].append(uid)
    return found


def _in_order(history: History, moments: list[tuple[int, str]], what: str) -> Iterator[Violation]:
    """Nothing may come after something whose publishing began when its own had been committed."""
    latest: Published | None = None
    places: dict[str, tuple[int, str]] = {}
    # At one and the same moment, as a whole batch is settled, any order is none.
    for _, _, _, uid in sorted(
        (moment, history.published[uid].began, history.published[uid].place, uid)
        for moment, uid in moments
    ):
        published = history.published[uid]
        if latest is not None and published.ended < latest.began:
            yield Violation("O", f"{what}: {latest.message.uid} came before {uid}")
        if latest is None or published.began > latest.began:
            latest = published
        place, before = places.get(published.batch, (-1, ""))
        if published.place < place:
            yield Violation("O", f"{what}: {before} came before {uid} of the same call")
        places[published.batch] = (published.place, uid)


# E: what a handler does through its transaction happens exactly once.


def exactly_once(history: History) -> Iterator[Violation]:
    pairs = set(history.effective) | {
        pair for pair in history.settled if pair[0] in history.transactional
    }
    for subscription, uid in sorted(pairs):
        times = len(history.effective.get((subscription, uid), []))
        wanted = int(history.done(subscription, uid))
        if times != wanted:
            yield Violation("E", f"{uid} in {subscription}: {times} effects, not {wanted}")
    yield from _follow_ups(history)
    yield from _overlaps(history)


def _follow_ups(history: History) -> Iterator[Violation]:
    if FOLLOW not in {one.subscription for one in history.declared}:
        return
    wanted = {
        follow_up(uid, subscription)
        for subscription, uid in history.settled
        if uid in history.published
        and history.published[uid].message.how == "follow"
        and history.done(subscription, uid)
    }
    found: dict[str, int] = defaultdict(int)
    for (subscription, uid), times in history.settled.items():
        if subscription == FOLLOW:
            found[uid] += len(times)
    for uid in sorted(wanted | found.keys()):
        if found[uid] != (uid in wanted):
            expected = "once" if uid in wanted else "never"
            yield Violation("E", f"{uid}: published {found[uid]} times by its handler, {expected}")


def _overlaps(history: History) -> Iterator[Violation]:
    """Two effects of a key were made one after the other: both had its lease to their end."""
    keys: dict[Pair, list[tuple[int, int, str]]] = defaultdict(list)
    for one in history.effects:
        if one.key is not None:
            keys[one.subscription, one.key].append((one.began, one.ended, one.uid))
    for (subscription, key), spans in keys.items():
        spans.sort(key=itemgetter(0))
        for (_, ended, earlier), (began, _, later) in pairwise(spans):
            if began < ended:
                yield Violation(
                    "X", f"{subscription}, key {key}: {earlier} and {later} were handled at once"
                )
