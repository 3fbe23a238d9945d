"""pgmq as an extension, on a server that offers it."""

import itertools
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from pgmq.install import get_embedded_install_sql
from psycopg import sql

from pgbus import Bus, IncompatibleDatabase
from tests.security.house import House, new_prefix
from tests.servers import PostgresInstance, Server
from tests.store.catalog import snapshot
from tests.store.queue import Connection

CONTROL = """\
comment = 'a message queue'
default_version = '{version}'
relocatable = false
schema = 'pgmq'
"""
_numbers = itertools.count()


@pytest.fixture
def offer(server: Server, pg_major: int) -> Callable[..., None]:
    """Let a database offer the extension pgmq: ``offer(dsn, version=…, script=…)``."""
    if not isinstance(server, PostgresInstance):
        pytest.skip("needs a folder that the server can read")
    if pg_major < 18:
        pytest.skip("extension_control_path came with PostgreSQL 18")

    def make(dsn: str, *, version: str = "1.13.0", script: str | None = None) -> None:
        folder = server.folder / f"offer{next(_numbers)}" / "extension"
        folder.mkdir(parents=True)
        control = CONTROL.format(version=version)
        text = get_embedded_install_sql() if script is None else script
        write(folder / "pgmq.control", control)
        write(folder / f"pgmq--{version}.sql", text)
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("alter database {} set extension_control_path = {}").format(
                    sql.Identifier(str(name)), sql.Literal(f"{folder.parent}:$system")
                )
            )

    return make


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def extension(connection: Connection) -> str | None:
    found = connection.execute(
        "select extversion from pg_extension where extname = 'pgmq'"
    ).fetchone()
    return None if found is None else str(found[0])


def test_the_extension_is_used_where_the_server_offers_it(
    dsn: str, offer: Callable[..., None], connect: Callable[[str], Connection]
) -> None:
    offer(dsn)
    connection = connect(dsn)
    handled: list[int] = []
    with Bus(dsn) as bus:
        bus.install()
        assert extension(connection) == "1.13.0"
        bus.install()

        @bus.subscribe("orders.#", name="billing")
        def on_order(event: int) -> None:
            handled.append(event)

        with bus.running():
            assert bus.publish("orders", 1).queues == 1
            assert bus.wait_idle()
        bus.rename_subscription("billing", "invoicing")
        bus.drop_subscription("invoicing")
    assert handled == [1]
    left = "select count(*) from pg_class where relname like '%billing%' or relname like '%invoic%'"
    assert connection.execute(left.encode()).fetchone() == (0,)


def test_roles_use_the_extension_that_belongs_to_a_superuser(
    dsn: str, offer: Callable[..., None], server: Server
) -> None:
    offer(dsn)
    house = House(server, new_prefix())
    with Bus(dsn) as bus:
        bus.install(roles=house.prefix)
    for kind in ("owner", "publisher"):
        house.hire(kind, group=kind)
    handled: list[int] = []
    with Bus(house.dsn(dsn, "owner")) as owner, Bus(house.dsn(dsn, "publisher")) as publisher:
        owner.install()

        @owner.subscribe("orders.#", name="billing")
        def on_order(event: int) -> None:
            handled.append(event)

        with owner.running():
            assert publisher.publish("orders", 1).queues == 1
            assert owner.wait_idle()
        owner.rename_subscription("billing", "invoicing")
        owner.drop_subscription("invoicing")
    assert handled == [1]
    server.drop_database(dsn)
    house.leave()


def test_pgmq_that_is_there_already_is_kept_though_the_extension_is_on_offer(
    dsn: str, offer: Callable[..., None], connect: Callable[[str], Connection]
) -> None:
    offer(dsn)
    connection = connect(dsn)
    connection.execute(get_embedded_install_sql().encode())
    with Bus(dsn) as bus:
        bus.install()
    assert extension(connection) is None


def test_an_extension_that_is_too_old_is_refused_and_not_left_behind(
    dsn: str, offer: Callable[..., None]
) -> None:
    offer(dsn, version="1.4.0", script="create table pgmq.meta (queue_name varchar);")
    with Bus(dsn) as bus, pytest.raises(IncompatibleDatabase, match=r"pgmq 1\.4\.0"):
        bus.install()
    assert not any(snapshot(dsn).values())


def test_an_old_extension_in_use_asks_for_its_update(
    dsn: str, offer: Callable[..., None], connect: Callable[[str], Connection]
) -> None:
    offer(dsn, version="1.4.0", script="create table pgmq.meta (queue_name varchar);")
    connect(dsn).execute("create extension pgmq")
    before = snapshot(dsn)
    with (
        Bus(dsn) as bus,
        pytest.raises(IncompatibleDatabase, match=r"pgmq 1\.4\.0.*ALTER EXTENSION pgmq UPDATE"),
    ):
        bus.install()
    assert snapshot(dsn) == before
