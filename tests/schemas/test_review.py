"""Whether code may be deployed: its types against the registry and those who run now."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgbus import downcast, upcast
from pgbus.core.evolution import downcast_versions
from pgbus.core.recorded import AcceptedType, Acceptor, Publishing, Recorded
from pgbus.core.review import Finding, Known, Taker, review, subject, unread
from pgbus.core.schema import describe
from tests.schemas.kinds import TOPIC, event

V1 = event(("order_id", str), ("cents", int))
V2 = event(("order_id", str), ("cents", int), ("currency", str, "EUR"), version=2)
V3 = event(("order_id", str), ("total", str), version=3)
PAID = event(("order_id", str), topic="orders.paid", name="OrderPaid")


def recorded(*kinds: Any) -> list[Recorded]:
    return [Recorded(describe(kind), "shop", datetime(2026, 1, 2, tzinfo=UTC)) for kind in kinds]


def worker(
    *kinds: Any,
    subscription: str = "billing",
    version: str = "1.4",
    host: str = "a",
    seen: float = 12.0,
    any_type: bool = False,
    pattern: str = "orders.*",
) -> Acceptor:
    described = [describe(kind) for kind in kinds]
    return Acceptor(
        subscription,
        "billing",
        version,
        host,
        1,
        (pattern,),
        frozenset(f"{one.topic}@{one.version}" for one in described),
        any_type,
        tuple(
            AcceptedType(one.topic, one.version, one.fingerprint, one.document) for one in described
        ),
        timedelta(seconds=seen),
    )


def taker(*kinds: Any, name: str = "billing", any_type: bool = False) -> Taker:
    found = [subject(kind) for kind in kinds]
    types = {(one.schema.topic, one.schema.version) for one in found}
    types |= {(one.schema.topic, version) for one in found for version in one.upcasts}
    return Taker(
        name,
        ("orders.*",),
        frozenset(f"{topic}@{version}" for topic, version in types),
        tuple(one.schema for one in found),
        any_type,
    )


def publishes(kind: Any, *, service: str = "shop", days: float = 0) -> Publishing:
    one = describe(kind)
    casts = downcast_versions(kind)
    return Publishing(one.topic, one.version, service, "2.0", casts, 1, timedelta(days=days))


def look(
    kinds: Sequence[Any],
    known: Sequence[Any] = (),
    workers: Sequence[Acceptor] = (),
    takers: Sequence[Taker] = (),
    publishers: Sequence[Publishing] = (),
) -> list[Finding]:
    facts = Known(recorded(*known), list(publishers), list(workers))
    return review([subject(kind) for kind in kinds], takers, "shop", facts)


def test_what_is_recorded_so_is_unchanged() -> None:
    [found] = look([V1], [V1], [worker(V1)])
    assert (found.state, found.good, found.already) == ("unchanged", True, [])


def test_what_others_recorded_may_break_when_this_service_publishes_it() -> None:
    workers = [worker(V1), worker(V3, subscription="audit")]
    [found] = look([V3], [V1, V3], workers, publishers=[publishes(V1)])
    assert (found.state, found.good) == ("unchanged", False)
    assert [one.subscription for one in found.breaks] == ["billing"]
    assert not look([V3], [V1, V3], workers)[0].good, "nobody publishes it, so this may"
    assert look([V3], [V1, V3], workers, publishers=[publishes(V1, service="other")])[0].good
    [found] = look([V3], [V1, V3], workers, publishers=[publishes(V3)])
    assert (found.good, [one.subscription for one in found.already]) == (True, ["billing"])


def test_the_first_of_its_topic_breaks_who_has_no_type_for_it() -> None:
    [found] = look([PAID], [], [worker(V1), worker(any_type=True, subscription="log")])
    assert (found.state, found.good) == ("first", False)
    [broken] = found.breaks
    assert (broken.subscription, broken.why) == ("billing", "it has no type for orders.paid")
    assert look([PAID], [], [worker(V1, pattern="orders.created")])[0].good


def test_a_change_under_the_same_version_is_refused_and_breaks() -> None:
    otherwise = event(("order_id", str), ("cents", str))
    [found] = look([otherwise], [V1, V2], [worker(V1)])
    assert (found.state, found.against) == ("changed", 1)
    assert [str(one) for one in found.changes] == ["cents: integer became string"]
    assert found.faults == [
        "it changed under the same version: give it version=3, or it is refused"
    ]
    [broken] = found.breaks
    assert broken.why == "it knows version 1 (cents: integer became string)"


def test_a_new_version_that_fits_breaks_nobody() -> None:
    [found] = look([V2], [V1], [worker(V1)])
    assert (found.state, found.against, found.good) == ("new", 1, True)
    assert [one.path for one in found.changes] == ["currency"]


def test_a_new_version_that_does_not_fit_names_the_live_releases() -> None:
    old = [worker(V1, host="a", seen=40), worker(V1, host="b"), worker(V1, host="b")]
    [found] = look([V3], [V1], [*old, worker(V1, version="1.3", seen=3)])
    assert [
        (one.subscription, one.service, one.service_version, one.hosts, one.seen.total_seconds())
        for one in found.breaks
    ] == [("billing", "billing", "1.3", 1, 3), ("billing", "billing", "1.4", 2, 12)]
    assert {one.why for one in found.breaks} == {
        "it knows version 1 (cents: was removed; the older type needs it)"
    }
    [fault] = found.faults
    assert fault.startswith("it does not read version 1 (total: was added: string without a de")
    assert fault.endswith("add @upcast(…, from_version=1)")


def test_casts_make_a_version_good() -> None:
    kind = event(("order_id", str), ("total", str), version=2)
    upcast(kind, from_version=1)(dict)
    [found] = look([kind], [V1])
    assert found.good
    assert not look([kind], [V1], [worker(V1)])[0].good
    downcast(kind, to_version=1)(dict)
    assert look([kind], [V1], [worker(V1)])[0].good


def test_a_colleague_that_knows_the_version_takes_it() -> None:
    both = [worker(V1), worker(V3, version="1.5")]
    assert look([V3], [V1, V2], [worker(V1)])[0].breaks != []
    assert look([V3], [V1, V2], both)[0].breaks == []
    elsewhere = [worker(V1), worker(V3, subscription="audit")]
    assert [one.subscription for one in look([V3], [V1], elsewhere)[0].breaks] == ["billing"]
    # But who knows the very version otherwise does not give it back.
    otherwise = event(("order_id", str), ("total", int), version=3)
    assert look([V3], [V1], [worker(otherwise), worker(V3)])[0].breaks != []


def test_the_codes_own_workers_will_be_colleagues() -> None:
    def breaks(name: str, *publishers: Publishing, service: str | None = "shop") -> list[str]:
        facts = Known(recorded(V1), publishers, [worker(V1)])
        [found] = review([subject(V3)], [taker(V3, name=name)], service, facts)
        return [one.why for one in found.breaks]

    others, own = publishes(V1, service="other"), publishes(V1)
    assert breaks("billing", others) == []
    assert breaks("audit", others) == [
        "it knows version 1 (cents: was removed; the older type needs it)"
    ]
    # What publishes it may run before they do.
    for told in (
        breaks("billing"),
        breaks("billing", own),
        breaks("billing", others, service=None),
    ):
        [why] = told
        assert why.startswith("until workers of this release run, it knows version 1 (cents: was")


def test_a_release_that_goes_back_breaks_who_went_on() -> None:
    workers = [worker(V3)]
    other = publishes(V3, service="other")
    assert look([V1], [V1, V3], workers, publishers=[other])[0].good, "it only takes it"
    went_back = look([V1], [V1, V3], workers, publishers=[publishes(V1), publishes(V3)])
    assert [one.why for one in went_back[0].breaks] == [
        "it knows version 3 (total: was added: string without a default)"
    ]
    still = look([V1, V3], [V1, V3], workers, publishers=[publishes(V3)])
    assert all(one.good for one in still)


def unreadable(takers: Sequence[Taker], publishers: Sequence[Publishing], *known: Any) -> list[str]:
    return unread(takers, Known(recorded(*known), publishers, []))["billing"]


def test_what_is_published_must_be_readable() -> None:
    assert unreadable([taker(V1)], [publishes(V2)], V1, V2) == []
    [fault] = unreadable([taker(V1)], [publishes(V3)], V1, V3)
    assert fault.startswith("orders.created version 3, which shop 2.0 publishes: it knows version")
    assert fault.endswith("1 (cents: was removed; the older type needs it)")
    assert unreadable([taker(V1)], [publishes(PAID)], PAID) == [
        "orders.paid version 1, which shop 2.0 publishes: it has no type for orders.paid"
    ]
    assert unreadable([taker(V1, any_type=True)], [publishes(PAID)], PAID) == []
    assert unreadable([taker(V1)], [publishes(V3, days=8)], V1, V3) == []
    casting = event(("order_id", str), ("total", str), version=2)
    downcast(casting, to_version=1)(dict)
    assert unreadable([taker(V1)], [publishes(casting)], casting) == []


@pytest.mark.parametrize("first", [True, False])
def test_the_order_of_the_code_makes_no_difference(first: bool) -> None:
    kinds = [V1, V2, PAID] if first else [PAID, V2, V1]
    found = look(kinds, [V1])
    assert [(one.topic, one.version, one.state) for one in found] == [
        (TOPIC, 1, "unchanged"),
        (TOPIC, 2, "new"),
        ("orders.paid", 1, "first"),
    ]
