"""Debian's PgBouncer in transaction mode between the bus and PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgbus import Bus, ConfigurationError, Context, Event
from pgbus.threads import fetcher
from pgbus.threads.publisher import PART
from tests.cli.command import pgbus
from tests.servers.account import NAMESPACE
from tests.threads.asleep import sleepers
from tests.waiting import eventually

PORT = 6432
# Fewer sessions than clients, so that every transaction may meet another one.
SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr =
listen_port = {own_port}
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
min_pool_size = 0
max_client_conn = 100
logfile = {folder}/log
"""


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int


@pytest.fixture
def sessions() -> int:
    """How many there are for all clients."""
    return 3


@pytest.fixture
def pooled_dsn(bus_dsn: str, sessions: int) -> Iterator[str]:
    """The test's database, through PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    parts = conninfo_to_dict(bus_dsn)
    if not str(parts.get("host", "")).startswith("/"):
        pytest.skip("needs a server on a socket")
    prefix = NAMESPACE if os.geteuid() == 0 else ()
    folder = Path(tempfile.mkdtemp(prefix="pgbus-pooler-"))
    try:
        settings = SETTINGS.format(folder=folder, own_port=PORT, sessions=sessions, **parts)
        (folder / "ini").write_text(settings)
        command = [*prefix, program, "--quiet", str(folder / "ini")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            dsn = make_conninfo("", **{**parts, "host": str(folder), "port": PORT})
            try:
                eventually(lambda: process.poll() is None and answers(dsn), message="no pooler")
                yield dsn
            finally:
                process.terminate()
    finally:
        shutil.rmtree(folder)


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def make_pooled(pooled_dsn: str) -> Iterator[Callable[..., Bus]]:
    made: list[Bus] = []

    def make(**settings: Any) -> Bus:
        made.append(Bus(pooled_dsn, **settings))
        return made[-1]

    yield make
    for bus in made:
        bus.close()


def test_a_connection_through_it_sets_and_prepares_nothing(make_pooled: Callable[..., Bus]) -> None:
    bus = make_pooled()
    for n in range(20):
        bus.publish(Created(order="a", n=n))
        bus.publish_many([Created(order="a", n=n) for n in range(2 * PART)])
    with psycopg.connect(bus.dsn, prepare_threshold=None) as connection:
        prepared = connection.execute("select count(*) from pg_prepared_statements").fetchone()
        isolation = connection.execute("show default_transaction_isolation").fetchone()
    assert prepared == (0,)
    assert isolation == ("read committed",)


@pytest.mark.parametrize("past_it", [True, False], ids=["with direct_dsn", "polling"])
def test_publishing_and_handling(
    make_pooled: Callable[..., Bus],
    bus_dsn: str,
    past_it: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetcher, "POLL", 0.1)
    direct = {"direct_dsn": bus_dsn} if past_it else {}
    seen: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    buses = [make_pooled(service=f"service{n}", **direct) for n in range(2)]
    lock = threading.Lock()
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("create table booked (id text primary key, n int)")
    for bus in buses:

        @bus.subscribe("orders.*", name="plain", concurrency=4)
        def on_order(event: Created, context: Context) -> None:
            if event.n % 10 == 3 and context.attempt == 1:
                raise RuntimeError("once")
            with lock:
                seen["plain"][event.order].append(event.n)

        @bus.subscribe("orders.*", name="transactional", concurrency=4)
        def book(event: Created, connection: psycopg.Connection[Any], context: Context) -> None:
            connection.execute("insert into booked values (%s, %s)", [str(context.id), event.n])
            context.publish("booked", {"n": event.n})

        bus.start()
    for n in range(40):
        buses[n % 2].publish_many([Created(order=f"o{k}", n=n) for k in range(5)])
        with psycopg.connect(buses[0].dsn, prepare_threshold=None) as connection:
            buses[0].publish(Created(order="inside", n=n), connection=connection)
    assert all(bus.wait_idle(30) for bus in buses)
    for bus in buses:
        bus.stop()
    wanted = {f"o{k}": list(range(40)) for k in range(5)} | {"inside": list(range(40))}
    assert seen["plain"] == wanted
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        assert connection.execute("select count(*) from booked").fetchone() == (240,)
        locks = "select count(*) from pg_locks where locktype = 'advisory'"
        # The server ends a session a moment after its client.
        eventually(lambda: connection.execute(locks).fetchone() == (0,))
        left = connection.execute("select count(*) from pgbus.lease").fetchone()
        assert left == (0,)


@pytest.mark.parametrize("sessions", [1])
def test_a_transaction_begun_ahead_takes_no_session_from_the_registry(
    make_pooled: Callable[..., Bus], bus_dsn: str
) -> None:
    """Which is asked about a type that the handler does not know."""
    handled: list[int] = []
    bus = make_pooled(direct_dsn=bus_dsn, service="shop")

    @bus.subscribe("orders.#", name="billing", concurrency=1)
    def on_order(event: Created, connection: psycopg.Connection[Any]) -> None:
        handled.append(event.n)

    bus.declare()
    for n in range(3):
        bus.publish(Created(order="a", n=n))
        bus.publish("orders.unknown", {}, key="a")
    with bus.running():
        assert bus.wait_idle(10)
    assert handled == [0, 1, 2]
    assert len(list(bus.dead_letters("billing"))) == 3


def test_with_a_direct_dsn_it_is_woken(make_pooled: Callable[..., Bus], bus_dsn: str) -> None:
    handled = threading.Event()
    bus = make_pooled(direct_dsn=bus_dsn)

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.set()

    with bus.running():
        eventually(partial(sleepers, bus_dsn))
        bus.publish(Created(order="a", n=1))
        assert handled.wait(10)


def test_a_direct_dsn_that_is_none_is_refused(
    make_pooled: Callable[..., Bus], pooled_dsn: str, new_database: Callable[..., str]
) -> None:
    for direct, said in ((pooled_dsn, "through a pooler"), (new_database(), "another database")):
        bus = make_pooled(direct_dsn=direct)

        @bus.subscribe("orders.*", name="billing")
        def on_order(event: Created) -> None: ...

        with pytest.raises(ConfigurationError, match=said):
            bus.start()


def test_a_default_that_cannot_be_changed_through_it_is_refused(
    bus_dsn: str, make_pooled: Callable[..., Bus]
) -> None:
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(
            f"alter database {name} set default_transaction_isolation = 'serializable'"
        )
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    with pytest.raises(ConfigurationError, match="default_transaction_isolation"):
        make_pooled().publish(Created(order="a", n=1))


def test_tail_asks_for_a_way_past_it(pooled_dsn: str) -> None:
    done = pgbus("tail", "#", dsn=pooled_dsn)
    assert done.returncode == 1
    assert "leads through a pooler" in done.stderr
