"""Renaming: everything that carries the name, and the order of what waits."""

import pytest

from pgbus import Bus, ConfigurationError, StoreError
from pgbus.store import topology
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement
from tests.store.catalog import snapshot
from tests.store.queue import Connection, Queue
from tests.store.worker import Worker, ids


def carried(dsn: str) -> dict[str, list[str]]:
    """Every object; without the names of NOT NULL constraints, which nobody ever uses."""
    found = snapshot(dsn)
    found["constraint"] = [one for one in found["constraint"] if "NOT NULL" not in one]
    return found


@pytest.mark.parametrize(
    ("old", "new"), [("billing", "invoicing"), ("b" * 43, "i" * 43)], ids=["short", "longest"]
)
@pytest.mark.parametrize("ordered", [True, False])
def test_every_object_gets_the_new_name(
    connection: Connection, old: str, new: str, ordered: bool
) -> None:
    dsn = connection.info.dsn
    run(connection, topology.declare(old, ordered=ordered, park=True))
    before = carried(dsn)
    run(connection, topology.rename(old, new))
    after = carried(dsn)
    assert {
        kind: sorted(one.replace(old, new) for one in all_) for kind, all_ in before.items()
    } == after
    run(connection, topology.rename(new, old))
    assert carried(dsn) == before


def test_what_it_held_goes_along_in_its_order(bus: Bus, connection: Connection) -> None:
    @bus.subscribe("orders.#", name="billing")
    def on_order(event: int) -> None: ...

    bus.declare()
    queue = Queue(connection)
    for n in range(4):
        bus.publish("orders.created", n, key="k")
    bus.publish("orders.later", 9, key="k", delay=3600)
    worker = Worker(connection, queue)
    [chunk] = worker.take(worker.wish(quantity=2)).chunks
    dead = [(chunk.messages[0].msg_id, '{"tried": 1}')]
    again = (chunk.messages[1].msg_id, 0.0, "failure")
    worker.settle(LaneSettlement(chunk.lane, chunk.token, release=True, dead=dead, again=again))
    worker.leave()

    bus.rename_subscription("billing", "invoicing")
    [status] = bus.status("invoicing")
    assert (status.ready, status.delayed, status.dead_letters) == (3, 1, 1)
    assert bus.status("billing") == []
    assert {(one.pattern, one.queue, one.ours) for one in bus.bindings()} == {
        ("orders", "invoicing", True),
        ("orders.#", "invoicing", True),
    }
    # A publisher that remembers the old route finds the new one.
    assert bus.publish("orders.created", 4, key="k").queues == 1
    connection.execute("update pgbus.scheduled set due_at = clock_timestamp()")
    run(connection, topology.declare("invoicing", ordered=True, park=False))
    connection.execute("select pgbus.promote(10)")
    assert bus.redrive("invoicing") == 1

    renamed = Queue(connection, "invoicing")
    assert renamed.number == queue.number
    heir = Worker(connection, renamed)
    [all_] = heir.take().chunks
    assert [message.body for message in all_.messages] == ["0", "1", "2", "3", "4", "9"]
    assert all_.messages[1].failures == 1
    heir.finish(all_)


def test_the_old_name_can_be_used_again(bus: Bus, connection: Connection, queue: Queue) -> None:
    queue.send("k")
    bus.rename_subscription("billing", "invoicing")
    fresh = Queue(connection)
    assert fresh.number != queue.number
    assert fresh.ids() == []
    fresh.send("k")
    old = Queue(connection, "invoicing")
    for one in (fresh, old):
        worker = Worker(connection, one)
        assert ids(worker.take()) == [[1]]
        worker.leave()
    bus.drop_subscription("invoicing", force=True)
    assert fresh.ids() == [1]


def test_a_worker_of_the_new_name_is_woken(bus: Bus, connection: Connection, queue: Queue) -> None:
    bus.rename_subscription("billing", "invoicing")
    seen: list[int] = []

    @bus.subscribe("orders.*", name="invoicing")
    def on_order(event: int) -> None:
        seen.append(event)

    with bus.running():
        assert bus.wait_idle()
        bus.publish("orders.created", 1)
        assert bus.wait_idle()
    assert seen == [1]


def test_a_name_that_is_taken_is_refused(bus: Bus, connection: Connection, queue: Queue) -> None:
    Queue(connection, "shipping")
    connection.execute("select pgmq.create('reports')")
    before = snapshot(connection.info.dsn)
    for taken in ("shipping", "reports", "billing"):
        with pytest.raises(StoreError, match=f"{taken} exists already"):
            bus.rename_subscription("billing", taken)
    with pytest.raises(ConfigurationError, match="no subscription 'nobody'"):
        bus.rename_subscription("nobody", "somebody")
    assert snapshot(connection.info.dsn) == before
