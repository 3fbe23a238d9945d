"""Installing: at once, again, beside what is there, and not half."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest
from pgmq import install_pgmq_from_sql
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgbus import Bus, IncompatibleDatabase, Retry, StoreError
from pgbus.store import migrate
from pgbus.store.statements import migrations
from tests.proxy import FaultProxy
from tests.security.house import House, new_prefix
from tests.servers import Server
from tests.store.catalog import content, snapshot
from tests.waiting import eventually

INSTALLER = """
import sys
from pgbus import Bus
bus = Bus(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
bus.install()
bus.close()
"""


def install(dsn: str) -> None:
    with Bus(dsn) as bus:
        bus.install()


def nothing(dsn: str) -> bool:
    return not any(snapshot(dsn).values())


def applied(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select number, name, checksum, breaking from pgbus.migration order by number"
        ).fetchall()


def test_twenty_processes_install_at_once(dsn: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", INSTALLER, dsn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [error for _, error in ends if error] == []
    assert [process.returncode for process in processes] == [0] * 20
    expected = [(one.number, one.name, one.checksum, one.breaking) for one in migrations()]
    assert applied(dsn) == expected
    assert [number for number, *_ in expected] == list(range(1, len(expected) + 1))


def test_installing_again_changes_nothing(bus_dsn: str) -> None:
    before = snapshot(bus_dsn), content(bus_dsn, "pgbus.migration", "pgbus.template")
    install(bus_dsn)
    assert (snapshot(bus_dsn), content(bus_dsn, "pgbus.migration", "pgbus.template")) == before


def test_the_printed_sql_makes_the_very_same_schema(dsn: str, bus_dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("".join(migrate.script()).encode())
    assert snapshot(dsn) == snapshot(bus_dsn)
    tables = ("pgbus.migration", "pgbus.template")
    assert content(dsn, *tables) == content(bus_dsn, *tables)
    with Bus(dsn) as bus:
        bus.install()
        bus.declare()
    assert snapshot(dsn) == snapshot(bus_dsn)


def test_the_printed_sql_run_twice_fails_and_changes_nothing(bus_dsn: str) -> None:
    before = snapshot(bus_dsn), applied(bus_dsn)
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        for part in "".join(migrate.script()).split("\n-- pgbus\n"):
            with pytest.raises(psycopg.errors.Error, match="already exists"):
                connection.execute(part.encode())
            connection.rollback()
    assert (snapshot(bus_dsn), applied(bus_dsn)) == before


def test_a_pgmq_that_is_new_enough_is_left_as_it_is(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        install_pgmq_from_sql(conn=connection)
        connection.execute("select pgmq.create('reports')")
        connection.execute("select pgmq.bind_topic('reports.*', 'reports')")
        connection.execute("select pgmq.send('reports', '1'::jsonb)")
    before = snapshot(dsn)
    rows = content(dsn, "pgmq.meta", "pgmq.topic_bindings", "pgmq.q_reports")
    install(dsn)
    after = snapshot(dsn)
    assert content(dsn, "pgmq.meta", "pgmq.topic_bindings", "pgmq.q_reports") == rows
    for kind, objects in before.items():
        assert set(objects) <= set(after[kind])
    [trigger] = [one for one in after["trigger"] if one not in before["trigger"]]
    assert "ON pgmq.topic_bindings" in trigger


def test_what_a_dump_leaves_out_of_an_extensions_tables_is_put_back(bus: Bus, bus_dsn: str) -> None:
    before = snapshot(bus_dsn)
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("select pgmq.create('reports')")
        connection.execute("drop trigger pgbus_bindings_changed on pgmq.topic_bindings")
        connection.execute("drop index pgmq.pgbus_bindings_by_ends")
    assert bus.publish("reports.new", 1).queues == 0
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("select pgmq.bind_topic('reports.*', 'reports')")
    bus.install()
    assert bus.publish("reports.new", 1).queues == 1
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("select pgmq.unbind_topic('reports.*', 'reports')")
    assert bus.publish("reports.new", 1).queues == 0
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("select pgmq.drop_queue('reports')")
    assert snapshot(bus_dsn) == before


def test_who_does_not_own_pgmqs_tables_can_install_beside_them(dsn: str, server: Server) -> None:
    house = House(server, new_prefix())
    house.hire("guest")
    guest = sql.Identifier(house.login("guest"))
    with psycopg.connect(dsn) as connection:
        install_pgmq_from_sql(conn=connection)
        for grant in (
            "grant create on database {} to {}",
            "grant all on schema pgmq to {1}",
            "grant all on all tables in schema pgmq to {1}",
        ):
            database = sql.Identifier(connection.info.dbname)
            connection.execute(sql.SQL(grant).format(database, guest))
    install(house.dsn(dsn, "guest"))
    with psycopg.connect(dsn) as connection:
        names = connection.execute("select tgname from pg_trigger where tgname ~ '^pgbus_'")
        assert names.fetchall() == [("pgbus_bindings_changed",)]
    server.drop_database(dsn)
    house.leave()


@pytest.mark.parametrize(
    "lack",
    [
        "drop table pgmq.topic_bindings cascade",
        "drop function pgmq.bind_topic(text, text)",
        "drop function pgmq.send_batch_topic(text, jsonb[], jsonb[], timestamptz)",
    ],
)
def test_an_older_pgmq_is_refused_with_what_to_do(dsn: str, lack: str) -> None:
    with psycopg.connect(dsn) as connection:
        install_pgmq_from_sql(conn=connection)
        connection.execute(lack.encode())
    before = snapshot(dsn)
    with pytest.raises(IncompatibleDatabase, match=r"needs 1\.11 or newer .* upgrade it"):
        install(dsn)
    assert snapshot(dsn) == before


@pytest.mark.parametrize(
    "last_words",
    [b"create schema if not exists pgbus", b"create table pgbus.template", b"pgbus.reap() returns"],
)
def test_an_interrupted_installation_leaves_nothing(
    dsn: str, proxy: FaultProxy, last_words: bytes
) -> None:
    proxy.lose_reply(last_words)
    with Bus(proxy.dsn) as bus, pytest.raises(StoreError):
        bus.install()
    assert proxy.lost_replies == 1
    assert nothing(dsn)
    install(dsn)
    assert len(applied(dsn)) == len(migrations())


def test_an_installation_whose_commit_got_no_reply_is_whole(
    dsn: str, proxy: FaultProxy, bus_dsn: str
) -> None:
    proxy.lose_reply(b"COMMIT\0")  # the statement, not the word in a script
    with Bus(proxy.dsn) as bus, pytest.raises(StoreError):
        bus.install()
    assert snapshot(dsn) == snapshot(bus_dsn)
    install(dsn)


@pytest.fixture
def owned_dsn(server: Server) -> Iterator[str]:
    """A database whose owner may nothing else on the server."""
    dsn = server.create_database()
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role {} login nosuperuser password 'not a secret'").format(name)
        )
        connection.execute(sql.SQL("alter database {0} owner to {0}").format(name))
        yield make_conninfo(dsn, user=name.as_string().strip('"'), password="not a secret")
        server.drop_database(dsn)
        connection.execute(sql.SQL("drop role {}").format(name))


HOSTILE = {
    "search_path": "nowhere",
    "default_transaction_isolation": "serializable",
    "TimeZone": "Pacific/Kiritimati",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "plpgsql.variable_conflict": "use_column",
    "transform_null_equals": "on",
    "synchronous_commit": "off",
    "idle_in_transaction_session_timeout": "2s",
    "jit": "on",
    "jit_above_cost": "0",
    "enable_indexscan": "off",
}


def test_neither_installing_nor_running_depends_on_a_databases_defaults(
    dsn: str, bus_dsn: str
) -> None:
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        for setting, value in HOSTILE.items():
            change = sql.SQL("alter database {} set {} = {}")
            parts = (sql.Identifier(word) for word in setting.split("."))
            connection.execute(change.format(name, sql.SQL(".").join(parts), sql.Literal(value)))
    handled: list[int] = []
    failed = threading.Event()
    with Bus(dsn) as bus:
        bus.install()
        assert snapshot(dsn) == snapshot(bus_dsn)

        @bus.subscribe("orders.#", name="billing", retry=Retry(max_attempts=2, initial=0.01))
        def on_order(event: int) -> None:
            if event == 2 and not failed.is_set():
                failed.set()
                raise ValueError
            handled.append(event)

        with bus.running():
            bus.publish("orders", 3, key="k", delay=3600)
            for n in (1, 2):
                bus.publish("orders.created", n, key="k")
            with psycopg.connect(dsn) as connection:
                connection.execute("update pgbus.scheduled set due_at = clock_timestamp()")
                connection.execute("select pg_notify('pgbus', '')")
            eventually(lambda: handled == [1, 2, 3])
            assert bus.wait_idle()


def test_the_owner_of_a_database_needs_no_more_rights(owned_dsn: str) -> None:
    handled: list[int] = []
    with Bus(owned_dsn) as bus:
        bus.install()

        @bus.subscribe("orders.*", name="billing")
        def on_order(event: int) -> None:
            handled.append(event)

        with bus.running():
            bus.publish("orders.created", 1)
            assert bus.wait_idle()
        bus.rename_subscription("billing", "invoicing")
        bus.drop_subscription("invoicing")
    assert handled == [1]
