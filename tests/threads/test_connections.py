"""Links that stall, servers that turn read-only or fail over, connections that are all taken."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgbus import Bus, Event, StoreError
from pgbus.threads import call, link, pool
from tests.proxy import FaultProxy
from tests.servers import PostgresInstance
from tests.servers.standby import NAME, Standby
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


class Shop:
    """A publisher that goes on until it is told to stop, and a handler."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.published: list[int] = []
        """What is acknowledged."""
        self.handled: list[int] = []
        self._stop = threading.Event()

        @bus.subscribe("orders.*", name="billing")
        def on_order(event: Created) -> None:
            self.handled.append(event.n)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Publish and handle for as long as the block runs, and then handle the rest."""
        thread = threading.Thread(target=self._publish)
        with self.bus.running():
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                thread.join()
            eventually(lambda: set(self.published) <= set(self.handled), timeout=30)

    def _publish(self) -> None:
        n = 0
        while not self._stop.is_set():
            chosen = uuid4()
            while not self._try_to_publish(n, chosen):
                if self._stop.wait(0.05):
                    return
            self.published.append(n)
            n += 1

    def _try_to_publish(self, n: int, chosen: UUID) -> bool:
        try:
            self.bus.publish("orders.created", Created(order="a", n=n), key="a", id=chosen)
        except StoreError:
            return False
        return True

    def goes_on(self, timeout: float = 20) -> None:
        """Wait until what is published from now on is handled."""
        count = len(self.published)
        eventually(lambda: len(self.published) > count + 5, timeout=timeout)
        eventually(lambda: set(self.published[: count + 5]) <= set(self.handled), timeout=timeout)

    def verify(self) -> None:
        """Nothing acknowledged is missing, and first deliveries came in order."""
        firsts = list(dict.fromkeys(self.handled))
        assert firsts == sorted(firsts)
        assert set(self.published) <= set(firsts)


def test_a_failover_loses_nothing_that_was_acknowledged(
    own_server: Callable[..., PostgresInstance],
) -> None:
    primary = own_server({"wal_level": "replica", "max_wal_senders": 4})
    if not (primary.bin_dir / "pg_basebackup").exists():
        pytest.skip(f"there is no pg_basebackup in {primary.bin_dir}")
    with Standby(primary) as standby:
        with psycopg.connect(primary.dsn(), autocommit=True) as connection:
            connection.execute(f"alter system set synchronous_standby_names = '{NAME}'")
            connection.execute("select pg_reload_conf()")
            eventually(partial(is_synchronous, connection))
        dsn = make_conninfo(
            host=f"{primary.folder},{standby.folder}",
            port=f"{primary.port},{standby.port}",
            user="postgres",
            dbname="postgres",
            target_session_attrs="read-write",
        )
        with Bus(dsn, lease=5) as bus:
            bus.install()
            shop = Shop(bus)
            with shop.open():
                shop.goes_on()
                primary.kill9()
                standby.promote()
                shop.goes_on()
            shop.verify()


def is_synchronous(connection: "psycopg.Connection[tuple[object, ...]]") -> bool:
    return connection.execute("select sync_state from pg_stat_replication").fetchall() == [
        ("sync",)
    ]


def test_a_server_that_turns_read_only_is_left_and_found_again(
    own_server: Callable[..., PostgresInstance], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    with (
        psycopg.connect(server.dsn(), autocommit=True) as admin,
        Bus(server.dsn(), lease=5) as bus,
    ):
        bus.install()
        shop = Shop(bus)

        def read_only(value: str) -> None:
            admin.execute(f"alter system set default_transaction_read_only = {value}")
            admin.execute("select pg_reload_conf()")
            shown = "show default_transaction_read_only"
            eventually(lambda: admin.execute(shown).fetchone() == (value,))

        with shop.open():
            shop.goes_on()
            read_only("on")
            eventually(lambda: "ReadOnlySqlTransaction" in caplog.text)
            read_only("off")
            shop.goes_on()
        shop.verify()


def test_a_link_that_stalls_is_cut_and_made_anew(
    proxy: FaultProxy, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "STALL", 1.0)
    monkeypatch.setattr(link, "CONNECT_TIMEOUT", 2)  # a new connection may stall, too
    monkeypatch.setattr(call, "CHECK", 0.1)
    with Bus(dsn) as direct:
        direct.install()
    with Bus(proxy.dsn, lease=30) as bus:
        shop = Shop(bus)
        with shop.open():
            shop.goes_on()
            with caplog.at_level(logging.WARNING):
                proxy.stall()
                eventually(lambda: "got no reply" in caplog.text, timeout=20)
            # Nobody waits for what the stalled link held back: it is lost with its connections.
            proxy.cut()
            proxy.resume()
            shop.goes_on()
        shop.verify()


def test_a_take_that_takes_long_gets_longer_each_time(
    make_bus: Callable[..., Bus],
    bus_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = make_bus(lease=3)
    monkeypatch.setattr(link, "STALL", 0.25)
    monkeypatch.setattr(call, "CHECK", 0.02)
    handled = threading.Event()
    cuts = "got no reply for"

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.set()

    bus.declare()
    bus.publish(Created(order="a"))
    with psycopg.connect(bus_dsn) as gate:
        gate.execute("lock table pgmq.q_billing")
        with caplog.at_level(logging.WARNING), bus.running():
            eventually(lambda: f"{cuts} 1 s" in caplog.text)
            gate.rollback()
            assert handled.wait(20)


WAITING = "select count(*) from pg_locks where relation = 'pgmq.q_slow'::regclass and not granted"


def test_connections_that_are_all_taken_starve_no_handler(
    bus: Bus, make_bus: Callable[..., Bus], bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(make_bus(lease=2))

    @bus.subscribe("other", name="slow")
    def on_slow(event: Any) -> None: ...

    bus.declare()
    taken = [
        threading.Thread(target=shop.bus.status, args=("slow",)) for _ in range(pool.POOL_SIZE)
    ]
    with shop.bus.running(), psycopg.connect(bus_dsn) as gate:
        gate.execute("lock table pgmq.q_slow")
        for thread in taken:
            thread.start()
        eventually(lambda: gate.execute(WAITING).fetchone() == (pool.POOL_SIZE,), timeout=30)
        with monkeypatch.context() as impatient:
            impatient.setattr(pool, "POOL_TIMEOUT", 0.5)
            with pytest.raises(StoreError, match="all 8 connections"):
                shop.bus.status("billing")
        # Longer than a lease: without heartbeats, its keys would be somebody else's.
        for n in range(30):
            bus.publish(Created(order="a", n=n))
            threading.Event().wait(0.1)
        eventually(lambda: shop.handled == list(range(30)))
        gate.rollback()
        for thread in taken:
            thread.join()


@pytest.mark.parametrize(("own", "idle"), [({}, "5"), ({"keepalives_idle": 60}, "60")])
def test_the_kernel_is_asked_to_look_after_links(
    bus_dsn: str, own: dict[str, int], idle: str
) -> None:
    """Unless the DSN says otherwise."""
    with link.connect(make_conninfo(bus_dsn, **own), name="pgbus test") as connection:
        asked = connection.info.get_parameters()
    assert asked["keepalives_idle"] == idle
    assert asked["keepalives_interval"] == "2"
    assert asked["keepalives_count"] == "3"
    assert asked["tcp_user_timeout"] == "15000"
    assert asked["connect_timeout"] == "10"
