"""Publishing on sessions that the bus keeps: what their commits say, and what they forget."""

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgbus import Bus, Outgoing, PayloadError, StoreError
from tests.waiting import eventually

MANY = 300
"""Events that are published in parts, in one transaction."""
DEFERRED = """
create function at_commit() returns trigger language plpgsql as $$ begin {} return null; end $$;
create constraint trigger at_commit after insert on pgmq.q_billing
    deferrable initially deferred for each row execute function at_commit()
"""
KILL = """
select pg_terminate_backend(pid) from pg_stat_activity
where wait_event = 'PgSleep' and datname = current_database()
"""


@pytest.fixture
def warm(bus: Bus) -> Bus:
    """A bus that has published before, on the connection that it will use."""
    subscribe(bus, "billing", "orders.*")
    for n in range(3):
        bus.publish("orders.created", {"n": n})
    return bus


@pytest.fixture
def witness(warm: Bus, bus_dsn: str) -> "Iterator[psycopg.Connection[tuple[int]]]":
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        yield connection


def subscribe(bus: Bus, name: str, pattern: str) -> None:
    @bus.subscribe(pattern, name=name)
    def on_event(event: dict[str, int]) -> None:
        raise AssertionError

    bus.declare()


def stored(witness: "psycopg.Connection[tuple[int]]") -> int:
    [count] = witness.execute("select count(*) from pgmq.q_billing").fetchone() or [-1]
    return count


def test_a_commit_that_fails_is_no_receipt(
    warm: Bus, witness: "psycopg.Connection[tuple[int]]"
) -> None:
    witness.execute(DEFERRED.format("raise division_by_zero;"))
    with pytest.raises(StoreError) as refused:
        warm.publish("orders.created", {"n": 4})
    assert not refused.value.outcome_unknown
    assert stored(witness) == 3


def test_a_server_that_ends_amid_the_commit_leaves_its_outcome_unknown(
    warm: Bus, witness: "psycopg.Connection[tuple[int]]"
) -> None:
    witness.execute(DEFERRED.format("perform pg_sleep(30);"))

    def kill() -> None:
        eventually(lambda: witness.execute(KILL).rowcount == 1)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(StoreError) as lost:
        warm.publish("orders.created", {"n": 4})
    killer.join()
    assert lost.value.outcome_unknown
    assert stored(witness) == 3


def test_a_long_call_that_fails_leaves_the_session_of_use(
    warm: Bus, witness: "psycopg.Connection[tuple[int]]"
) -> None:
    """psycopg has a session forget what it prepared, where a transaction is rolled back."""
    good = [Outgoing("orders.created", {"n": n}) for n in range(MANY)]
    with pytest.raises(PayloadError):
        warm.publish_many([*good, Outgoing("orders.created", {"n": object()})])
    for n in range(3):
        assert warm.publish("orders.created", {"n": n}).queues == 1
    assert stored(witness) == 6


def test_a_long_call_with_old_routes_leaves_the_session_of_use(
    warm: Bus, witness: "psycopg.Connection[tuple[int]]", make_bus: Callable[..., Bus]
) -> None:
    subscribe(make_bus(), "shipping", "parcels.*")
    many = [Outgoing("orders.created", {"n": n}) for n in range(MANY)]
    assert len(warm.publish_many(many)) == MANY
    for n in range(3):
        assert warm.publish("orders.created", {"n": n}).queues == 1
    assert stored(witness) == 6 + MANY
