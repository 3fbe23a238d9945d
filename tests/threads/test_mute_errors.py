"""Exceptions of handlers that cannot be asked for their text: they count like any other."""

import pytest

from pgbus import Bus, Event, Incident, Retry
from tests.core.test_account import Mute, Quitting


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "batches"])
@pytest.mark.parametrize("kind", [Mute, Quitting])
def test_their_event_is_dead_lettered(
    bus: Bus, kind: type[Exception], attempts: int, *, batches: bool
) -> None:
    incidents: list[Incident] = []
    handled: list[int] = []
    bus.on_error(incidents.append)
    retry = Retry(max_attempts=attempts, initial=0.01)
    subscribe = bus.subscribe("orders.*", name="billing", retry=retry)

    def work(event: Created) -> None:
        if event.n == 0:
            raise kind
        handled.append(event.n)

    if batches:

        def handle_batch(events: list[Created]) -> None:
            for event in events:
                work(event)

        subscribe(handle_batch)
    else:
        subscribe(work)
    bus.declare()
    bus.publish_many([Created(order="a", n=n) for n in range(2)])
    with bus.running():
        assert bus.wait_idle()
    assert handled == [1]
    [letter] = bus.dead_letters("billing")
    assert (letter.error_type, letter.attempts) == (kind.__name__, attempts)
    assert kind.__name__ in letter.error
    assert "raise kind" in letter.traceback
    kinds = [one.kind for one in incidents]
    assert kinds == ["failure"] * (attempts - 1) + ["dead_letter"]
    assert {type(one.error) for one in incidents} == {kind}
