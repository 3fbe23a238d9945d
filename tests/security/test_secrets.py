"""A marker in payloads, headers and connection strings comes to light nowhere, whatever fails.

Not meant: what shows bodies on purpose (``dlq show``, ``tail``), an event's own ``repr``, its key,
by which it is spoken of, and names of fields, by which a fault is found.
"""

import dataclasses
import enum
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgbus import (
    BatchContext,
    Bus,
    ConfigurationError,
    Context,
    Event,
    Incident,
    Outgoing,
    PayloadError,
    PgbusError,
    Retry,
    StoreError,
    Unroutable,
)
from pgbus.threads.link import connect
from tests.cli.command import call
from tests.security.leaks import Leaks
from tests.servers import Server
from tests.waiting import eventually

SECRET = f"hush{secrets.token_hex(6)}"
FAST = Retry(max_attempts=2, initial=0.01)


@pytest.fixture
def leaks(server: Server, caplog: pytest.LogCaptureFixture) -> Iterator[Leaks]:
    """Fails the test if the secret came to light."""
    watched = Leaks(server, SECRET)
    with caplog.at_level(logging.DEBUG):
        yield watched
    watched.records(caplog.records)
    assert watched.found() == []


@pytest.fixture
def db(bus_dsn: str) -> str:
    """A database whose administrator has the parameters of failed statements logged."""
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        name = sql.Identifier(str(conninfo_to_dict(bus_dsn)["dbname"]))
        change = "alter database {} set log_parameter_max_length_on_error = -1"
        connection.execute(sql.SQL(change).format(name))
    return bus_dsn


@pytest.fixture
def bus(db: str, leaks: Leaks) -> Iterator[Bus]:
    """A bus whose incidents are looked through, too."""
    with Bus(db, lease=5) as bus:

        @bus.on_error
        def note(incident: Incident) -> None:
            leaks.error(incident.error)
            leaks.say("incident", repr(incident))

        yield bus


def test_the_watch_is_kept(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever says the secret is found."""
    watched = Leaks(server, SECRET)
    log = logging.getLogger("pgbus.test")
    with caplog.at_level(logging.DEBUG):
        log.info("%s", SECRET)
        log.info("beside", extra={"tenant": SECRET})
        log.info("an error", exc_info=ValueError(SECRET))
    watched.records(caplog.records)
    error = PayloadError("harmless")
    error.__cause__ = ValueError(SECRET)
    watched.error(error)
    with psycopg.connect(server.dsn()) as connection, pytest.raises(psycopg.Error) as failure:
        connection.execute(f"select '{SECRET}'::integer".encode())
    watched.error(failure.value)
    found = [where.split()[0] for where, _ in watched.found()]
    assert found.count("log") >= 3
    assert {"traceback", "error", "diagnostics"} <= set(found)
    if watched.server_log():
        assert "server" in found


class Colour(enum.Enum):
    RED = "red"


class Cat(msgspec.Struct, tag="cat"):
    name: str


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class Order(Event, topic="orders.created"):
    total: int = 0
    colour: Colour = Colour.RED
    mode: Literal["a", "b"] = "a"
    pet: Cat | Dog | None = None
    at: datetime | None = None
    ident: UUID | None = None
    price: Decimal | None = None
    strict: Strict | None = None
    by_name: dict[str, int] = msgspec.field(default_factory=dict)
    by_number: dict[int, int] = msgspec.field(default_factory=dict)
    note: str = ""


class Sly:
    """Cannot be encoded, and says what it holds wherever it is asked."""

    def __repr__(self) -> str:
        return SECRET

    __str__ = __repr__


@dataclasses.dataclass
class Holder:
    secret: str
    value: object


def deep(depth: int) -> object:
    value: object = SECRET
    for _ in range(depth):
        value = [value]
    return value


BAD_PAYLOADS: dict[str, Callable[[], object]] = {
    "NUL": lambda: {"a": SECRET + "\0"},
    "NUL in a key": lambda: {SECRET + "\0": 1},
    "lone surrogate": lambda: {"a": SECRET + "\ud800"},
    "NaN": lambda: {f"{SECRET}@": float("nan")},
    "infinity": lambda: [SECRET, float("inf")],
    "decimal NaN": lambda: {f"{SECRET}@": Decimal("NaN")},
    "huge number": lambda: {"a": SECRET, "b": msgspec.Raw(b"1e400")},
    "many digits": lambda: {"a": SECRET, "b": 10**4300},
    "too deep": lambda: deep(600),
    "far too deep": lambda: deep(100_000),
    "too large": lambda: {"a": SECRET * 1_000_000},
    "no JSON": lambda: msgspec.Raw(f'{{"a": {SECRET}}}'.encode()),
    "half a JSON": lambda: msgspec.Raw(f'{{"a": "{SECRET}'.encode()),
    "an object": lambda: {"a": SECRET, "b": Sly()},
    "an object as a key": lambda: {Sly(): 1},
    "a class": lambda: Holder(SECRET, Sly()),
    "a set of objects": lambda: {"a": {Sly()}, "b": SECRET},
}


@pytest.mark.parametrize("what", BAD_PAYLOADS)
@pytest.mark.parametrize("many", [False, True])
def test_payloads_that_cannot_be_stored(bus: Bus, leaks: Leaks, what: str, *, many: bool) -> None:
    bad = Outgoing("a.b", BAD_PAYLOADS[what]())
    with pytest.raises(PgbusError) as failure:
        bus.publish_many([Order(), bad] if many else [bad])
    leaks.error(failure.value)


BAD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "NUL": {"headers": {"a": SECRET + "\0"}},
    "surrogate": {"headers": {"a": SECRET + "\ud800"}},
    "no text": {"headers": {"a": [SECRET]}},
    "no mapping": {"headers": [SECRET]},
    "reserved": {"headers": {"id": SECRET}},
    "too large": {"headers": {"a": SECRET * 100_000}},
    "delay": {"delay": -1.0, "headers": {"a": SECRET}},
    "connection": {"connection": SECRET},
    "delay, a secret": {"delay": Sly()},
    "at": {"at": Sly()},
    "id": {"id": Sly()},
}


@pytest.mark.parametrize("what", BAD_ARGUMENTS)
def test_arguments_that_are_refused(bus: Bus, leaks: Leaks, what: str) -> None:
    with pytest.raises(PgbusError) as failure:
        bus.publish("a.b", {"a": SECRET}, **BAD_ARGUMENTS[what])
    leaks.error(failure.value)


FOREIGN: dict[str, str] = {
    "type": f'{{"total": "{SECRET}"}}',
    "enum": f'{{"colour": "{SECRET}"}}',
    "literal": f'{{"mode": "{SECRET}"}}',
    "tag": f'{{"pet": {{"type": "{SECRET}", "name": "x"}}}}',
    "datetime": f'{{"at": "{SECRET}"}}',
    "uuid": f'{{"ident": "{SECRET}"}}',
    "decimal": f'{{"price": "{SECRET}"}}',
    "unknown field": f'{{"strict": {{"number": 1, "{SECRET}": 2}}}}',
    "value of a key": f'{{"by_name": {{"{SECRET}": "{SECRET}"}}}}',
    "key": f'{{"by_number": {{"{SECRET}": 1}}}}',
    "scalar": f'"{SECRET}"',
    "array": f'["{SECRET}"]',
    "deep": "[" * 5000 + f'"{SECRET}"' + "]" * 5000,
}
HEADERS: dict[str, str] = {
    "none": "{}",
    "wrong types": f'{{"id": "{SECRET}", "time": "{SECRET}", "pgbus-version": "{SECRET}", '
    f'"correlationid": ["{SECRET}"]}}',
    "no object": f'["{SECRET}"]',
    "a letter's": f'{{"pgbus-dead": {{"msg_id": "{SECRET}", "lane": 1, "error": "{SECRET}"}}}}',
}


@pytest.mark.parametrize("headers", HEADERS)
def test_foreign_messages_that_do_not_fit(bus: Bus, db: str, leaks: Leaks, headers: str) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order) -> None: ...

    bus.declare()
    with psycopg.connect(db, autocommit=True) as connection:
        for body in FOREIGN.values():
            connection.execute(
                "select pgmq.send('billing', %s::jsonb, %s::jsonb)", (body, HEADERS[headers])
            )
    with bus.running():
        assert bus.wait_idle()
    letters = list(bus.dead_letters("billing"))
    assert len(letters) == len(FOREIGN)
    for letter in letters:
        leaks.say("letter", (letter.error, letter.error_type, letter.traceback, repr(letter)))
    assert bus.redrive("billing") == len(FOREIGN)


def test_a_message_that_cannot_be_read(bus: Bus, db: str, leaks: Leaks) -> None:
    """PostgreSQL itself takes seconds to find out that it cannot write this one out."""

    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order) -> None: ...

    bus.declare()
    with psycopg.connect(db, autocommit=True) as connection:
        body = f'["{SECRET}"{", 1e131071" * 9000}]'
        connection.execute("select pgmq.send('billing', %s::jsonb)", (body,))
    with bus.running():
        assert bus.wait_idle(120)  # a busy machine's server is cut off once, and asked again
    [letter] = bus.dead_letters("billing")
    leaks.say("letter", (letter.error, letter.traceback, repr(letter)))


def test_foreign_messages_among_the_dead_letters(bus: Bus, db: str, leaks: Leaks) -> None:
    """Redriving leaves them alone, and is not stopped by what they claim."""

    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=1))
    def on_order(event: Order) -> None:
        raise ValueError

    with bus.running():
        bus.publish(Order())
        assert bus.wait_idle()
    claims = [f'"{SECRET}"', "1.5", "null", "[]", "1e30"]
    with psycopg.connect(db, autocommit=True) as connection:
        for claim in claims:
            dead = f'{{"pgbus-dead": {{"msg_id": {claim}, "lane": 1}}, "a": "{SECRET}"}}'
            connection.execute("select pgmq.send('billing_dlq', '1', %s::jsonb)", (dead,))
    assert bus.redrive("billing") == 1
    assert len(list(bus.dead_letters("billing"))) == len(claims)


def fail_plain(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order, context: Context) -> None:
        context.publish("invoices.created", {"note": event.note})
        raise ValueError("plain")


def fail_async(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    async def on_order(event: Order, context: Context) -> None:
        raise ValueError("plain")


def fail_batch(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(events: list[Order], context: BatchContext) -> None:
        assert SECRET not in repr(context)
        raise ValueError("plain")


def fail_transactional(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order, connection: psycopg.Connection) -> None:
        raise ValueError("plain")


def fail_in_the_database(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order, connection: psycopg.Connection) -> None:
        connection.execute("select 1 / 0 from (select %s::text) x", (event.note,))


def end_the_transaction(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order, connection: psycopg.Connection) -> None:
        connection.execute("rollback")


def publish_badly(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order, context: Context) -> None:
        context.publish("a.b", {"note": event.note + "\0"})


def time_out(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST, timeout=0.05)
    def on_order(event: Order, context: Context) -> None:
        eventually(lambda: context.lease_lost)


def exit_the_thread(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order) -> None:
        raise SystemExit("plain")


def say_what_cannot_be_stored(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order) -> None:
        raise ValueError("nul \0 and surrogate \ud800")


FAILURES = [
    fail_plain,
    fail_async,
    fail_batch,
    fail_transactional,
    fail_in_the_database,
    end_the_transaction,
    publish_badly,
    time_out,
    exit_the_thread,
    say_what_cannot_be_stored,
]


@pytest.mark.parametrize("declare", FAILURES)
def test_handlers_that_fail(bus: Bus, leaks: Leaks, declare: Callable[[Bus], None]) -> None:
    declare(bus)
    with bus.running():
        bus.publish_many(
            [
                Order(note=SECRET),
                Outgoing("orders.created", Order(note=SECRET), headers={"tenant": SECRET}),
            ]
        )
        assert bus.wait_idle()
    letters = list(bus.dead_letters("billing"))
    assert len(letters) == 2
    for letter in letters:
        assert SECRET in str(letter.body)
        leaks.say("letter", (letter.error, letter.error_type, letter.traceback, repr(letter)))


def test_a_handler_whose_publishing_leads_nowhere(db: str, leaks: Leaks) -> None:
    with Bus(db, on_unroutable="raise") as bus:
        bus.on_error(lambda incident: leaks.error(incident.error))

        @bus.subscribe("orders.*", name="billing", retry=FAST)
        def on_order(event: Order, context: Context) -> None:
            context.publish("nobody.listens", {"note": event.note})

        with bus.running():
            bus.publish(Order(note=SECRET))
            assert bus.wait_idle()
        [letter] = bus.dead_letters("billing")
        assert letter.error_type == "Unroutable"
        leaks.say("letter", (letter.error, letter.traceback))
        with pytest.raises(Unroutable) as failure:
            bus.publish("nobody.listens", {"note": SECRET}, headers={"tenant": SECRET})
        leaks.error(failure.value)


def test_ids_that_are_published_again(bus: Bus, db: str, leaks: Leaks) -> None:
    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Order) -> None: ...

    bus.declare()
    given = uuid4()
    with ThreadPoolExecutor(4) as threads:
        receipts = list(threads.map(lambda _: bus.publish(Order(note=SECRET), id=given), range(8)))
    assert sorted(one.duplicate for one in receipts) == [False] + [True] * 7
    leaks.say("receipts", repr(receipts))


@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
@pytest.mark.parametrize("how", ["put", "publish"])
def test_backends_that_end_while_they_store(
    bus: Bus, db: str, leaks: Leaks, end: str, how: str
) -> None:
    """The server says what the statement was, and would say with which parameters."""

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Order) -> None: ...

    bus.declare()
    bus.publish(Order())
    with psycopg.connect(db, autocommit=True) as watcher, psycopg.connect(db) as gate:
        gate.execute("lock table pgmq.q_billing in access exclusive mode")
        item = Outgoing(
            "orders.created",
            Order(note=SECRET),
            headers={"tenant": SECRET},
            id=uuid4() if how == "publish" else None,
        )
        with ThreadPoolExecutor(1) as aside:
            publishing = aside.submit(bus.publish_many, [item])
            waiting = (
                "select pid, query from pg_stat_activity where wait_event_type = 'Lock' "
                "and datname = current_database()"
            )
            [(pid, query)] = eventually(lambda: watcher.execute(waiting.encode()).fetchall())
            leaks.say("pg_stat_activity", query)
            watcher.execute(f"select {end}(%s)".encode(), (pid,))
            error = publishing.exception()
    assert isinstance(error, StoreError)
    leaks.error(error)


def test_backends_that_end_while_handlers_run(bus: Bus, db: str, leaks: Leaks) -> None:
    handled = []
    ended = threading.Event()

    @bus.subscribe("orders.*", name="billing", retry=FAST)
    def on_order(event: Order, connection: psycopg.Connection) -> None:
        if not ended.is_set():
            with psycopg.connect(db, autocommit=True) as killer:
                killer.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
            ended.set()
        connection.execute("select %s::text", (event.note,))
        handled.append(event)

    with bus.running():
        bus.publish(Order(note=SECRET), headers={"tenant": SECRET})
        eventually(lambda: handled)


def test_a_server_that_says_it_all_is_told_not_to(db: str, leaks: Leaks) -> None:
    """Else the tests above would prove nothing."""
    with psycopg.connect(db) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero) as failure, connection.transaction():
            connection.execute("select 1 / 0, %s::text", ("told",))
        assert "told" in str(failure.value.diag.context)
    with connect(db, name="pgbus test") as connection:
        with pytest.raises(psycopg.errors.DivisionByZero) as failure, connection.transaction():
            connection.execute("select 1 / 0, %s::text", (SECRET,))
        leaks.error(failure.value)


# Connection strings.


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


MALFORMED = [
    f"postgresql://me:{SECRET}%zz@host/x",
    f"postgresql://me:{SECRET}@ho@st/x",
    f"host=h password={SECRET} nonsense",
    f"host=h password={SECRET} nonsense=1",
    f"host=h password='{SECRET}",
    f"password={SECRET}@x host=@",
    f"mysql://me:{SECRET}@host/x",
]


@pytest.mark.parametrize("dsn", MALFORMED, ids=range(len(MALFORMED)))
def test_connection_strings_that_are_none(dsn: str, leaks: Leaks) -> None:
    with pytest.raises(ConfigurationError) as failure:
        Bus(dsn)
    leaks.error(failure.value)
    done = call(dsn, "status")
    assert done.code == 1
    leaks.say("command", repr(done))
    done = call("host=nowhere", "status", "--dsn", dsn)
    leaks.say("command", repr(done))


@pytest.fixture
def unreachable() -> str:
    return f"postgresql://me:{SECRET}@127.0.0.1:{closed_port()}/x?connect_timeout=2"


def everything(bus: Bus) -> list[Callable[[], object]]:
    return [
        bus.install,
        bus.declare,
        bus.start,
        bus.status,
        bus.bindings,
        lambda: bus.publish(Order(note=SECRET), headers={"tenant": SECRET}),
        lambda: bus.redrive("billing"),
    ]


def test_a_database_that_cannot_be_reached(unreachable: str, leaks: Leaks) -> None:
    with Bus(unreachable) as bus:

        @bus.subscribe("orders.*", name="billing")
        def on_order(event: Order) -> None: ...

        for action in everything(bus):
            with pytest.raises(StoreError) as failure:
                action()
            leaks.error(failure.value)
        leaks.say("reprs", (repr(bus), repr(bus.dsn)))
        assert SECRET in bus.dsn


@pytest.fixture
def tcp(own_server: Callable[..., Any]) -> str:
    """A database that asks for the password ``SECRET``."""
    server = own_server(tcp=True)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role me login superuser password {}").format(sql.Literal(SECRET))
        )
        connection.execute("set log_statement = 'none'")
    return str(make_conninfo(server.dsn(), user="me", password=SECRET))


def test_a_wrong_password_and_a_right_one(tcp: str, leaks: Leaks) -> None:
    wrong = make_conninfo(tcp, password=f"{SECRET}, but wrong")
    with Bus(wrong) as bus:
        for action in (bus.install, bus.status, lambda: bus.publish(Order())):
            with pytest.raises(StoreError) as failure:
                action()
            leaks.error(failure.value)
    leaks.say("command", repr(call(wrong, "status")))
    elsewhere = make_conninfo(tcp, dbname="elsewhere")
    leaks.say("command", repr(call(elsewhere, "status")))
    with Bus(tcp) as bus:
        with pytest.raises(StoreError, match="not installed") as failure:
            bus.status()
        leaks.error(failure.value)
        fail_transactional(bus)
        bus.install()
        with bus.running():
            bus.publish(Order(note=SECRET), headers={"tenant": SECRET})
            assert bus.wait_idle()
            with psycopg.connect(tcp, autocommit=True) as connection:
                said = connection.execute("select a::text from pg_stat_activity a").fetchall()
                leaks.say("pg_stat_activity", [row for (row,) in said])
    leaks.say("threads", [thread.name for thread in threading.enumerate()])


# Commands.

MODULE = """
from pgbus import Bus, Event
bus = Bus(service="shop")
@bus.subscribe("orders.*", name="billing")
def on_order(event: dict) -> None:
    raise ValueError("plain")
"""


def test_commands_that_fail(db: str, leaks: Leaks, tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_text(f'{{"what": "a.b"}}\n{{"what": "{SECRET} {SECRET}"}}\n{{"{SECRET}": }}\n')
    broken = tmp_path / "broken.jsonl"
    broken.write_text(f'{{"what": "{SECRET}"\n')
    commands = [
        ("publish", "a.b", f'{{"a": "{SECRET}"'),
        ("publish", "a.b", f"{SECRET}"),
        ("publish", "a.b", f'{{"a": "{SECRET}\\u0000"}}'),
        ("publish", "a.b", "{}", "--header", SECRET),
        ("publish", "a.b", "{}", "--header", f"id={SECRET}"),
        ("publish", "a.b", "{}", "--header", f"x={SECRET}\ud800"),
        ("publish", "a.b", f'{{"a": "{SECRET}"}}', "--strict"),
        ("publish", "a.b", f'{{"a": "{SECRET}"}}', "--header", f"x={SECRET}", "--file", "x"),
        ("publish", "--file", str(lines), "--topic-field", "what"),
        ("publish", "--file", str(lines), "--topic-field", "what", "--key-field", "what.x"),
        ("publish", "--file", str(broken), "--topic-field", "what"),
        ("publish", "--file", str(broken), "--topic-field", "other"),
        ("dlq", "list", "nowhere"),
    ]
    for command in commands:
        done = call(db, *command)
        assert done.code in (1, 2), command
        leaks.say(" ".join(command[:2]), repr(done))


def test_running_a_bus_whose_handlers_fail(bus: Bus, db: str, leaks: Leaks, tmp_path: Path) -> None:
    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=1))
    def on_order(event: Order) -> None:
        raise ValueError("plain")

    with bus.running():
        for _ in range(2):
            bus.publish(Order(note=SECRET), headers={"tenant": SECRET})
        assert bus.wait_idle()
    for command in (("dlq", "list", "billing"), ("dlq", "list", "billing", "--json")):
        done = call(db, *command)
        assert done.code == 0
        shown = done.stdout if "--json" not in command else ""
        leaks.say("dlq list", shown + done.stderr)
    leaks.say("status", repr(call(db, "status")))
    done = call(db, "dlq", "redrive", "billing")
    leaks.say("dlq redrive", repr(done))


def test_reprs(bus: Bus, leaks: Leaks) -> None:
    seen: list[object] = []

    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=1))
    def on_order(event: Order, context: Context) -> None:
        assert context.headers == {"tenant": SECRET}
        seen.append(context)
        raise ValueError("plain")

    @bus.subscribe("orders.*", name="shipping")
    def on_orders(events: list[Order], context: BatchContext) -> None:
        seen.append(context)

    outgoing = Outgoing("orders.created", Order(note=SECRET), headers={"tenant": SECRET})
    bus.on_error(seen.append)
    with bus.running():
        seen += bus.publish_many([outgoing])
        assert bus.wait_idle()
    seen += [outgoing, bus, bus.dsn, *bus.status(), *bus.bindings()]
    seen += bus.dead_letters("billing")
    kinds = {type(one).__name__ for one in seen}
    expected = "Outgoing Receipt Context BatchContext Incident Bus Dsn SubscriptionStatus Binding"
    assert kinds == {*expected.split(), "DeadLetter"}
    for one in seen:
        leaks.say(type(one).__name__, repr(one))
        if not isinstance(one, str):  # the connection string itself has to be whole
            leaks.say(type(one).__name__, str(one))
