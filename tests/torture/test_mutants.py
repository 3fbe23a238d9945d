"""The checker is tested: what a broken bus does in the dangerous moment, it objects to.

Each scene is stepped once with the bus as it is, which must pass, and once with its mutant.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import psycopg
import pytest

from pgbus import BatchContext, Bus, Context, Reject, Retry
from pgbus.model.delivery import Chunk
from pgbus.store import workers
from pgbus.store.query import run as run_operation
from pgbus.store.settle import LaneSettlement
from pgbus.threads.keeper import BEATS
from tests.proxy import FaultProxy
from tests.servers import Server
from tests.store.conftest import aside, connect
from tests.store.queue import wait_until_blocked
from tests.store.worker import Worker
from tests.torture import mutants, patches
from tests.torture.audit import Row, rows
from tests.torture.mutants import MUTANTS
from tests.torture.patches import DIE_BETWEEN
from tests.torture.records import End, now
from tests.torture.run import run
from tests.torture.scene import BILLING, TOPIC, Connection, Scene, laws
from tests.torture.supervisor import Plan
from tests.waiting import eventually

__all__ = ["aside", "connect"]  # fixtures

LEASE = 0.6
Stage = Callable[..., Scene]
tried: set[str] = set()
"""The mutants that a scene of this module is about."""


def with_and_without(name: str) -> pytest.MarkDecorator:
    """Step a scene twice: as the bus is, and with the mutant."""
    tried.add(name)
    return pytest.mark.parametrize("mutant", [None, name], ids=["as it is", name])


@pytest.fixture
def connection(connect: Callable[[str], Connection], bus_dsn: str) -> Connection:
    return connect(bus_dsn)


@pytest.fixture
def stage(
    connection: Connection, connect: Callable[[str], Connection], bus_dsn: str
) -> Iterator[Stage]:
    made: list[Scene] = []

    def open_scene(mutant: str | None, **kind: bool) -> Scene:
        another = lambda: connect(bus_dsn)  # noqa: E731
        made.append(Scene(connection, another, bus_dsn, mutant, **kind))
        return made[-1]

    yield open_scene
    for scene in made:
        scene.close()


@pytest.fixture
def broken(mutant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the mutant leaves it, to the end of the test."""
    mutants.break_python(mutant, monkeypatch.setattr)


@with_and_without("unfenced-acknowledgement")
def test_an_acknowledgement_after_a_take_over(mutant: str | None, stage: Stage) -> None:
    scene = stage(mutant)
    scene.publish("k", "k")
    slow, heir = scene.worker(), scene.worker()
    [stale] = slow.take(slow.wish(quantity=1)).chunks
    slow.die()
    [fresh] = heir.take().chunks
    scene.handle(stale)
    slow.finish(stale)
    scene.handle(fresh)
    heir.finish(fresh)
    scene.drain()
    assert laws(scene.violations()) == ({"F"} if mutant else set())


@with_and_without("acknowledgement-by-snapshot")
def test_an_acknowledgement_amid_a_take_over(
    mutant: str | None, stage: Stage, connection: Connection, aside: ThreadPoolExecutor
) -> None:
    scene = stage(mutant)
    scene.publish("k")
    slow, reaper = scene.worker(), scene.worker()
    [chunk] = slow.take().chunks
    scene.handle(chunk)
    slow.expire()
    with reaper.connection.transaction():
        assert len(run_operation(reaper.connection, workers.reap())) == 1
        settling = aside.submit(slow.finish, chunk)
        wait_until_blocked(connection, slow.connection)
    settling.result()
    scene.drain()
    assert laws(scene.violations()) == ({"F"} if mutant else set())


@with_and_without("single-snapshot-take")
def test_a_take_that_waits_while_another_worker_finishes(
    mutant: str | None, stage: Stage, connection: Connection, aside: ThreadPoolExecutor
) -> None:
    scene = stage(mutant, transactional=True)
    front, back = sorted(["a", "b"], key=scene.queue.lane)
    scene.publish(front, back)
    blocker, quick, slow = (scene.worker() for _ in range(3))
    with blocker.connection.transaction():
        [first] = blocker.take(blocker.wish(lanes=1)).chunks
        taking = aside.submit(slow.take)
        wait_until_blocked(connection, slow.connection)
        [chunk] = quick.take(quick.wish(start=scene.queue.lane(back))).chunks
        assert scene.transact(quick, chunk)
    taken = taking.result()
    for stale in taken.chunks:
        scene.transact(slow, stale)
    slow.settle(*(LaneSettlement(lane, slow.token, release=True) for lane in taken.empty))
    assert scene.transact(blocker, first)
    assert laws(scene.violations()) == ({"E"} if mutant else set())


@with_and_without("death-by-clock")
def test_a_heartbeat_that_is_executed_in_time_and_committed_late(
    mutant: str | None, stage: Stage, connection: Connection
) -> None:
    scene = stage(mutant)
    scene.publish("k")
    worker, other = scene.worker(), scene.worker()
    [chunk] = worker.take().chunks
    worker.expire()
    with worker.connection.transaction():
        worker.connection.execute("update pgbus.worker set lease = '1h' where id = %s", [worker.id])
        assert worker.heartbeat()
        # Everybody else still sees the old time, long past.
        others = other.connection
        others.execute("set lock_timeout = '100ms'")
        run_operation(others, workers.reap())
        for stolen in other.take().chunks:
            scene.handle(stolen)
            other.finish(stolen)
    assert worker.heartbeat()
    scene.handle(chunk)
    worker.finish(chunk)
    assert laws(scene.violations()) == ({"X"} if mutant else set())


@with_and_without("theft-by-clock")
def test_a_take_while_a_worker_is_late(mutant: str | None, stage: Stage) -> None:
    scene = stage(mutant)
    scene.publish("k")
    late, other = scene.worker(), scene.worker()
    [chunk] = late.take().chunks
    late.expire()
    # By the clock its lease is over, but nobody has declared it dead.
    for stolen in other.take().chunks:
        scene.handle(stolen)
        other.finish(stolen)
    scene.handle(chunk)
    late.finish(chunk)
    assert laws(scene.violations()) == ({"X"} if mutant else set())


@with_and_without("stale-routes")
def test_a_subscription_that_joins_while_a_publisher_remembers(
    mutant: str | None, stage: Stage
) -> None:
    scene = stage(mutant)
    scene.publish("k", "k")
    late = scene.declare("late")
    scene.publish("k")
    scene.drain()
    scene.drain(late)
    assert laws(scene.violations()) == ({"L"} if mutant else set())


class Desk:
    """A bus of this process that serves a scene's subscription, and writes down what it does."""

    def __init__(self, scene: Scene, dsn: str, **retry: Any) -> None:
        self.bus = Bus(dsn, service="scene", lease=LEASE)
        self._scene = scene
        self.act: Callable[[Context], None] = lambda context: None
        handle = self.bus.subscribe(TOPIC, name=BILLING, retry=Retry(initial=0.01, **retry))
        handle(self.handle)

    def handle(self, event: Any, context: Context) -> None:
        self._scene.begin(BILLING, event["uid"], os.getpid())
        self.act(context)
        self._scene.records.append(End(BILLING, event["uid"], os.getpid(), now()))


@pytest.mark.usefixtures("broken")
@with_and_without("acknowledgement-before-handler")
def test_a_handler_that_fails(mutant: str | None, stage: Stage, bus_dsn: str) -> None:
    scene = stage(mutant)
    desk = Desk(scene, bus_dsn)
    failed = threading.Event()

    def fail_once(context: Context) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("the first time")

    desk.act = fail_once
    scene.publish("k")
    with desk.bus.running():
        assert failed.wait(60)
        eventually(lambda: not scene.queue.ids())
    assert laws(scene.violations()) == ({"L"} if mutant else set())


@pytest.mark.parametrize("keys", [("k",), ("k", "l")], ids=["one", "two"])
@with_and_without("forgotten-ids")
def test_a_publish_that_is_repeated_under_its_ids(
    mutant: str | None, stage: Stage, keys: tuple[str, ...]
) -> None:
    scene = stage(mutant)
    scene.publish_twice(*keys)
    scene.drain()
    assert laws(scene.violations()) == ({"L"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("unfenced-transaction")
def test_a_transaction_that_outlives_its_lease(
    mutant: str | None, stage: Stage, bus_dsn: str
) -> None:
    scene = stage(mutant, transactional=True)
    scene.publish("k")
    began, go_on = threading.Event(), threading.Event()
    bus = Bus(bus_dsn, service="scene")

    @bus.subscribe(TOPIC, name=BILLING)
    def handle(event: Any, connection: psycopg.Connection[Any]) -> None:
        at = now()
        scene.begin(BILLING, event["uid"], os.getpid())
        scene.leave_effect(connection, event["uid"], at, os.getpid())
        began.set()
        assert go_on.wait(100)
        scene.records.append(End(BILLING, event["uid"], os.getpid(), now()))

    heir = scene.worker()
    with bus, bus.running():
        assert began.wait(60)
        [chunk] = eventually(lambda: _rob(scene, heir))
        assert scene.transact(heir, chunk)
        go_on.set()
    assert laws(scene.violations()) == ({"E"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("empty-lease-kept")
def test_a_lane_that_turns_out_to_be_empty(
    mutant: str | None, stage: Stage, connection: Connection, bus_dsn: str
) -> None:
    scene = stage(mutant)
    front, back = sorted(["a", "b"], key=scene.queue.lane)
    scene.publish(front, back)
    blocker, quick = scene.worker(), scene.worker()
    desk = Desk(scene, bus_dsn)
    try:
        with blocker.connection.transaction():
            [first] = blocker.take(blocker.wish(lanes=1)).chunks
            desk.bus.start()
            eventually(lambda: _waiting(connection), message="the bus takes nothing")
            [chunk] = quick.take(quick.wish(start=scene.queue.lane(back))).chunks
            scene.handle(chunk)
            quick.finish(chunk)
        scene.handle(first)
        blocker.finish(first)
        # A lease that was won in vain is there for a moment; one that is kept, for ever.
        eventually(lambda: len(_grants(connection, chunk.lane)) == 2)
        _for_a_while(lambda: not scene.queue.leases(), mutant)
        found = scene.violations()
    finally:
        desk.bus.close()
    assert laws(found) == ({"B"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("lost-take-kept")
def test_a_take_whose_reply_is_lost(mutant: str | None, stage: Stage, bus_dsn: str) -> None:
    scene = stage(mutant)
    scene.publish("k")
    with FaultProxy(bus_dsn) as proxy:
        desk = Desk(scene, proxy.dsn)
        proxy.lose_reply(f"take_{BILLING}".encode())
        with desk.bus.running():
            eventually(lambda: proxy.lost_replies, message="no reply was lost")
            _for_a_while(lambda: not scene.queue.ids(), mutant)
            found = scene.violations()
    assert laws(found) == ({"L", "B"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("no-heartbeat-at-shutdown")
def test_a_stop_amid_a_handler_that_outlasts_the_lease(
    mutant: str | None, stage: Stage, bus_dsn: str, aside: ThreadPoolExecutor
) -> None:
    scene = stage(mutant)
    desk = Desk(scene, bus_dsn)
    began, go_on = threading.Event(), threading.Event()
    beats: set[object] = set()

    def linger(context: Context) -> None:
        began.set()
        assert go_on.wait(100)

    def three_leases_passed_or_it_is_dead() -> bool:
        run_operation(scene.connection, workers.reap())
        alive = "select expires_at from pgbus.worker where dead_at is null"
        beats.update(scene.connection.execute(alive).fetchall() or [None])
        return None in beats or len(beats) > 3 * BEATS

    desk.act = linger
    scene.publish("k")
    desk.bus.start()
    assert began.wait(60)
    if mutant is None:  # a stall of this process is no reason to declare it dead
        scene.connection.execute("update pgbus.worker set lease = '1h'")
    stopping = aside.submit(desk.bus.stop, 100)
    try:
        eventually(three_leases_passed_or_it_is_dead)
    finally:
        go_on.set()
    stopping.result()
    scene.drain()
    desk.bus.close()
    found = scene.violations(calm=True)
    assert laws(found) == ({"B"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("batch-without-its-transaction")
def test_a_batch_whose_transaction_cannot_commit(
    mutant: str | None, stage: Stage, bus_dsn: str, connect: Callable[[str], Connection]
) -> None:
    scene, watcher = stage(mutant, transactional=True), connect(bus_dsn)
    scene.publish("k", "l")
    bus, ended = Bus(bus_dsn, service="scene"), threading.Event()

    @bus.subscribe(TOPIC, name=BILLING, concurrency=1, batch=10)
    def handle(events: list[Any], connection: psycopg.Connection[Any]) -> None:
        at = now()
        for event in events:
            scene.begin(BILLING, event["uid"], os.getpid())
            scene.leave_effect(connection, event["uid"], at, os.getpid())
            scene.records.append(End(BILLING, event["uid"], os.getpid(), now()))
        if not ended.is_set():
            ended.set()
            backend = connection.info.backend_pid
            watcher.execute("select pg_terminate_backend(%s, 10000)", (backend,))

    with bus, bus.running():
        eventually(lambda: not scene.queue.ids())
    assert laws(scene.violations()) == ({"E"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("batch-goes-on")
def test_a_batch_whose_first_event_is_to_come_again(
    mutant: str | None, stage: Stage, bus_dsn: str
) -> None:
    scene = stage(mutant)
    scene.publish("k", how="fail")
    scene.publish("k")
    bus, failed = Bus(bus_dsn, service="scene"), threading.Event()

    @bus.subscribe(TOPIC, name=BILLING, concurrency=1, batch=10, retry=Retry(initial=0.01))
    def handle(events: list[Any], context: BatchContext) -> None:
        for index, event in enumerate(events):
            scene.begin(BILLING, event["uid"], os.getpid())
            if event["how"] == "fail" and not failed.is_set():
                failed.set()
                context.retry(index)
            else:
                scene.records.append(End(BILLING, event["uid"], os.getpid(), now()))

    with bus, bus.running():
        eventually(lambda: not scene.queue.ids())
    assert laws(scene.violations()) == ({"O"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("batch-rejected-whole")
def test_a_batch_with_a_bad_event(mutant: str | None, stage: Stage, bus_dsn: str) -> None:
    scene = stage(mutant)
    scene.publish("k", how="reject")
    scene.publish("l")
    bus = Bus(bus_dsn, service="scene")

    @bus.subscribe(TOPIC, name=BILLING, concurrency=1, batch=10)
    def handle(events: list[Any]) -> None:
        for event in events:
            scene.begin(BILLING, event["uid"], os.getpid())
        if any(event["how"] == "reject" for event in events):
            raise Reject("as the event asked")
        for event in events:
            scene.records.append(End(BILLING, event["uid"], os.getpid(), now()))

    with bus, bus.running():
        eventually(lambda: not scene.queue.ids())
    assert laws(scene.violations()) == ({"A"} if mutant else set())


@with_and_without("unparked")
def test_a_key_with_a_dead_letter(mutant: str | None, stage: Stage) -> None:
    scene = stage(mutant, parks=True)
    scene.publish("k", how="reject")
    scene.publish("k")
    scene.give_up_one()
    scene.drain()
    scene.redrive()
    scene.drain()
    assert laws(scene.violations()) == ({"O"} if mutant else set())


@with_and_without("redriven-to-the-end")
def test_a_redrive_amid_its_key(mutant: str | None, stage: Stage) -> None:
    scene = stage(mutant)
    scene.publish("k", how="reject")
    scene.publish("k")
    scene.give_up_one()
    scene.redrive()
    scene.drain()
    assert laws(scene.violations()) == ({"O"} if mutant else set())


@with_and_without("heartbeat-of-the-dead")
def test_a_heartbeat_after_death(mutant: str | None, stage: Stage) -> None:
    scene = stage(mutant)
    scene.publish("k")
    worker = scene.worker()
    worker.take()
    worker.die()
    assert worker.heartbeat() is (mutant is not None)
    scene.drain()
    assert laws(scene.violations()) == ({"X"} if mutant else set())


@pytest.mark.usefixtures("broken")
@with_and_without("unknown-is-no")
def test_a_publish_whose_reply_is_lost(mutant: str | None, stage: Stage, bus_dsn: str) -> None:
    scene = stage(mutant)
    with FaultProxy(bus_dsn) as way:
        way.lose_reply(b'"uid"')
        scene.publish_through(way.dsn, "k")
        assert way.lost_replies == 1
    scene.drain()
    assert laws(scene.violations()) == ({"L"} if mutant else set())


def _reject(dsn: str, mutant: str | None) -> None:
    """A process whose handler rejects every event."""
    if mutant:
        os.environ[DIE_BETWEEN] = "1"
    mutants.break_python(mutant)

    def handle(event: Any) -> None:
        raise Reject("as the event asked")

    bus = Bus(dsn, service="scene")
    bus.subscribe(TOPIC, name=BILLING)(handle)
    bus.run()


@with_and_without("dead-letter-in-two")
def test_a_process_that_dies_as_an_event_becomes_a_dead_letter(
    mutant: str | None, stage: Stage, bus_dsn: str
) -> None:
    scene = stage(mutant)
    scene.publish("k", how="reject")
    process = multiprocessing.get_context("spawn").Process(
        target=_reject, args=(bus_dsn, mutant), daemon=True
    )
    process.start()
    try:
        eventually(lambda: not scene.queue.ids())
    finally:
        process.kill()
        process.join()
    # In its name: else this would be a theft.
    scene.connection.execute(
        "select set_config('application_name', 'pgbus/' || to_hex(id), false), "
        "pgbus.stop_worker(id) from pgbus.worker"
    )
    assert laws(scene.violations()) == ({"L"} if mutant else set())


def test_a_broken_client_is_mended() -> None:
    """Whatever a patch changes, it changes by the setter that it is given."""
    owners = [one for one in vars(patches).values() if isinstance(one, type | ModuleType)]
    whole = [dict(vars(owner)) for owner in owners]
    for name in MUTANTS:
        with pytest.MonkeyPatch.context() as patching:
            mutants.break_python(name, patching.setattr)
            broken = [dict(vars(owner)) for owner in owners] != whole
            assert broken is (MUTANTS[name].patch is not None)
        assert [dict(vars(owner)) for owner in owners] == whole, name


def test_every_mutant_has_its_scene() -> None:
    assert tried == set(MUTANTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant", [None, *(name for name, one in MUTANTS.items() if one.found_by_chance)]
)
def test_a_run_finds_what_chance_can_find(mutant: str | None, server: Server) -> None:
    if server.bin_dir is None:
        pytest.skip("needs the programs of PostgreSQL: --pg=embedded, --pg=system or --pg-bin")
    mix = MUTANTS[mutant].mix if mutant is not None else {}
    report = run(Plan(seed=1, duration=30.0, mutant=mutant, mix=mix), bin_dir=server.bin_dir)
    assert report.held is (mutant is None), report.verdict.violations[:5]


def _waiting(connection: Connection) -> bool:
    """Whether a take waits for another transaction."""
    row = connection.execute(
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock' "
        "and datname = current_database() and query like %s)",
        (f"%take_{BILLING}%",),
    ).fetchone()
    return row is not None and bool(row[0])


def _rob(scene: Scene, heir: Worker) -> list[Chunk]:
    """Have all others declared dead, and take what they had.

    A worker whose heartbeat is under way is spared. One that takes a lease before it hears of its
    death keeps it until the next attempt. Nobody's session is ended, as the operation that workers
    use would do.
    """
    scene.connection.execute(
        "update pgbus.worker set lease = '0', expires_at = '-infinity' "
        "where id <> %s and dead_at is null",
        (heir.id,),
    )
    scene.connection.execute("select pgbus.reap()")
    return heir.take().chunks


def _grants(connection: Connection, lane: int) -> list[Row]:
    return [row for row in rows(connection) if (row.kind, row.lane) == ("grant", lane)]


def _for_a_while(condition: Callable[[], bool], mutant: str | None) -> None:
    """Wait until it comes true; with the mutant, long enough to say that it does not."""
    if mutant is None:
        eventually(condition)
        return
    try:
        eventually(condition, timeout=4 * LEASE)
    except AssertionError:
        return
