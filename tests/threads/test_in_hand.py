"""What a subscription has in hand, and when its fetcher is to look for more."""

from collections.abc import Callable

from pgbus import Bus, Event
from pgbus.model.delivery import Chunk, Message
from pgbus.threads.session import Session
from pgbus.threads.subscription import Hold, Parcel, Subscription


class Created(Event, topic="orders.created", key="order"):
    order: str


def held(lane: int, session: Session) -> Hold:
    message = Message(lane, 0, "{}", "{}", 0, 0, False)
    return Hold(Chunk(1, lane, 1, False, [message]), session)


def test_who_settles_an_event_tells_when_too_few_are_left(make_bus: Callable[..., Bus]) -> None:
    bus = make_bus()

    @bus.subscribe("orders.created", name="orders", concurrency=4)
    def handle(event: Created) -> None:
        """Is never called."""

    subscription = Subscription(1, bus._definitions["orders"])
    session = Session(30.0)
    holds = [held(lane, session) for lane in range(100)]
    subscription.deliver(Parcel(len(holds), False, lambda: holds))
    assert subscription.wish() is None
    low = subscription.demand.low
    assert 0 < low < len(holds)
    subscription.receive()
    told = [subscription.settled([(hold, 1, False)]) for hold in holds]
    assert told == [left <= low for left in reversed(range(len(holds)))]


def test_nobody_is_told_while_there_is_nothing_more(make_bus: Callable[..., Bus]) -> None:
    bus = make_bus()

    @bus.subscribe("orders.created", name="orders")
    def handle(event: Created) -> None:
        """Is never called."""

    subscription = Subscription(1, bus._definitions["orders"])
    holds = [held(lane, Session(30.0)) for lane in range(3)]
    subscription.deliver(Parcel(len(holds), False, lambda: holds))
    subscription.receive()
    subscription.wish()
    subscription.ready = False
    assert not subscription.settled([(holds[0], 1, False)])
    assert subscription.settled([(holds[1], 1, True)])  # its key may have more
    subscription.ready, subscription.nap = False, 1.0
    assert subscription.settled([(holds[2], 1, False)])
