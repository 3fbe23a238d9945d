"""Those who have a role and mean ill: what they call by hand, and what they put in the way."""

import psycopg
import pytest
from psycopg import sql

from pgbus.store import workers
from pgbus.store.query import run
from tests.security.conftest import BusAs, ConnectAs, Connection
from tests.security.house import House

DENIED = psycopg.errors.InsufficientPrivilege
STORE = (
    "select * from pgbus.publish(%(known)s::uuid, array['orders.created'], array[%(route)s], "
    "array[1], array['{}'], array['{}'], null, interval '1 day', {due}, null, false)"
)


def queued(connection: Connection, queue: str) -> int:
    counted = connection.execute(
        sql.SQL("select count(*) from pgmq.{}").format(sql.Identifier(f"q_{queue}"))
    ).fetchone()
    assert counted is not None
    return int(counted[0])


@pytest.mark.parametrize("due", ["null", "array[clock_timestamp() + interval '1 hour']"])
@pytest.mark.parametrize(
    "route", ["private", "billing_dlq", "BILLING_DLQ", "billing,private", "meta", 'x" (vt) --']
)
def test_a_publisher_chooses_no_queue(
    connect_as: ConnectAs, house: House, route: str, due: str
) -> None:
    """What it says it remembers of routes leads only where something is bound."""
    superuser, publisher = connect_as(""), connect_as("publisher")
    superuser.execute("select pgmq.create('private')")
    superuser.execute(
        sql.SQL("grant all on pgmq.q_private to {}").format(sql.Identifier(house.role("owner")))
    )
    [(known,)] = publisher.execute("select generation from pgbus.stamp").fetchall()
    for dead in (None, "select from pgmq.q_private"):
        assert dead is None or superuser.execute(dead.encode()).fetchall() == []
        publisher.execute(STORE.replace("{due}", due).encode(), {"known": known, "route": route})
    places = {name: queued(superuser, name) for name in ("billing", "private", "billing_dlq")}
    scheduled = superuser.execute("select queues from pgbus.scheduled").fetchall()
    if due == "null":
        assert places == {"billing": 2, "private": 0, "billing_dlq": 0}
    else:
        assert scheduled == [(["billing", "shipping"],)] * 2


@pytest.fixture
def shipping(connect_as: ConnectAs) -> int:
    [(number,)] = (
        connect_as("")
        .execute("select id from pgbus.subscription where name = 'shipping'")
        .fetchall()
    )
    return int(number)


@pytest.fixture
def victim(connect_as: ConnectAs, shipping: int) -> int:
    """A running worker of ``shipping``, whose id everybody can see."""
    declared = workers.Declaration(shipping, (), (), any_type=True)
    run(connect_as("shipping"), workers.start(4711, "shop", "here", 1, 3600, [declared]))
    return 4711


OTHERS: dict[str, str] = {
    "poll": "select * from pgbus.poll(array[%(shipping)s], array[%(shipping)s])",
    "idle": "select pgbus.idle(array[%(shipping)s])",
    "idle, with an own one": "select pgbus.idle(array[%(billing)s, %(shipping)s])",
    "known_elsewhere": "select pgbus.known_elsewhere(%(shipping)s, 1, 'a@1')",
    "bind": "select pgbus.bind(%(shipping)s, '{}', true)",
    "start_worker": "select pgbus.start_worker(1, '', '', 1, interval '1 s', array[%(shipping)s], "
    "'[[]]', '[[]]', array[true])",
    "accept, a worker": "select pgbus.accept(%(victim)s, '', '{}', '{}', '{}', '{}', '{}')",
    "accept, a subscription": "select pgbus.accept(0, '', array[%(shipping)s], array['a'], "
    "array[1], array['f'], array['{}'])",
    "heartbeat": "select pgbus.heartbeat(%(victim)s)",
    "stop_worker": "select pgbus.stop_worker(%(victim)s)",
    "forget": "select pgbus.forget(%(victim)s, array[1])",
    "take": "select * from pgbus.take_shipping(1, 1, false, 0, 1, 1, 1, 1, true, false, false)",
    "settle": "select pgbus.settle_shipping(1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', "
    "'{}', '{}', '{}', '{}', false, false, false)",
    "acknowledge": "begin deferrable; select pgbus.acknowledge_shipping(1, 1, 1, true, 1, false); "
    "commit",
    "bury": "select pgbus.bury(%(victim)s)",
    "bury_shipping": "select pgbus.bury_shipping(%(victim)s)",
    "promote": "select pgbus.promote(1)",
    "counts": "select * from pgbus.counts(%(billing)s)",
    "generate": "select pgbus.generate(%(billing)s)",
    "hand_over": "select pgbus.hand_over(current_user::text)",
    "make_roles": "select pgbus.make_roles('pgbus')",
    "feed_tail": "select pgbus.feed_tail('pgbus_tail_00000001', '{}', '{}')",
    "rename_queue": "select pgbus.rename_queue('shipping', 'mine')",
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_subscriber_touches_nothing_of_another(
    connect_as: ConnectAs, shipping: int, victim: int, what: str
) -> None:
    superuser, billing = connect_as(""), connect_as("billing")
    [(own,)] = superuser.execute(
        "select id from pgbus.subscription where name = 'billing'"
    ).fetchall()
    before = superuser.execute("select * from pgbus.worker").fetchall()
    with pytest.raises(DENIED):
        billing.execute(
            OTHERS[what].encode(), {"shipping": shipping, "billing": own, "victim": victim}
        )
    assert superuser.execute("select * from pgbus.worker").fetchall() == before


def test_the_others_are_seen_to_work_for_their_own(
    connect_as: ConnectAs, shipping: int, victim: int
) -> None:
    """So that no denial above is a slip of the pen."""
    own = connect_as("shipping")
    for what, statement in OTHERS.items():
        if what in ("idle, with an own one", "start_worker", "accept, a subscription"):
            continue
        parameters = {"shipping": shipping, "billing": shipping, "victim": victim}
        if what in ("bury", "bury_shipping", "promote", "counts", "generate", "hand_over"):
            continue  # nobody's but the owner's
        if what in ("make_roles", "feed_tail", "rename_queue", "stop_worker"):
            continue
        if what == "acknowledge":  # it may, but there is no such lease
            with pytest.raises(psycopg.DatabaseError, match="the lease was lost"):
                own.execute(statement.encode())
            own.execute("rollback")
            continue
        own.execute(statement.encode(), parameters)
    own.execute(OTHERS["stop_worker"].encode(), {"victim": victim})


@pytest.mark.parametrize("name", ["private", "private_dlq", "../x", 'x"; drop table pgbus.lease'])
def test_an_operator_reads_no_other_queues(connect_as: ConnectAs, house: House, name: str) -> None:
    superuser, operator = connect_as(""), connect_as("operator")
    for queue in ("private", "private_dlq"):
        superuser.execute("select pgmq.create(%s)", (queue,))
        grant = sql.SQL("grant all on pgmq.{} to {}")
        table, owner = sql.Identifier(f"q_{queue}"), sql.Identifier(house.role("owner"))
        superuser.execute(grant.format(table, owner))
        superuser.execute("select pgmq.send(%s, '{}'::jsonb)", (queue,))
    for call in (
        "dead_letters(%s, 0, 10)",
        "redrive(%s, null, null)",
        "drop_dead_letters(%s, null)",
    ):
        with pytest.raises(psycopg.errors.UndefinedObject, match="no such subscription"):
            operator.execute(f"select * from pgbus.{call}".encode(), (name,))


TRAPS = """
create schema trap;
create function trap.sprung() returns text language plpgsql as $$
begin
    insert into public.sprung values (current_user);
    return null;
end $$;
create function trap.clock_timestamp() returns timestamptz language sql
    as $$ select pg_catalog.clock_timestamp() from (select trap.sprung()) s $$;
create function trap.unnest(text[]) returns setof text language sql
    as $$ select trap.sprung() $$;
create function trap.lower(text) returns text language sql as $$ select trap.sprung() $$;
create function trap.format(text, text) returns text language sql as $$ select trap.sprung() $$;
create function trap.hashtext(text) returns integer language sql
    as $$ select 1 from (select trap.sprung()) s $$;
create function trap.pg_notify(text, text) returns void language sql
    as $$ select trap.sprung() $$;
create function trap.starts_with(text, text) returns boolean language sql
    as $$ select true from (select trap.sprung()) s $$;
create function trap.same(text, text) returns boolean language sql
    as $$ select true from (select trap.sprung()) s $$;
create operator trap.= (leftarg = text, rightarg = text, function = trap.same);
create function trap.same(integer, integer) returns boolean language sql
    as $$ select true from (select trap.sprung()) s $$;
create operator trap.= (leftarg = integer, rightarg = integer, function = trap.same);
create view trap.pg_proc as select trap.sprung() as proname, 1::oid as oid, 1::oid as pronamespace;
create view trap.pg_roles as select trap.sprung() as rolname;
grant usage on schema trap to public;
create temporary view pg_proc as select * from trap.pg_proc;
create temporary view pg_roles as select * from trap.pg_roles;
create temporary table subscription (id integer, name text);
create temporary table lease (subscription integer, lane bigint, worker bigint, token bigint);
create temporary view meta as select trap.sprung() as queue_name;
create temporary view topic_bindings as select trap.sprung() as pattern;
set search_path = trap, pg_temp, pg_catalog;
"""


def lay_traps(house: House, connect_as: ConnectAs, kind: str) -> Connection:
    """Connect as somebody who shadows what definer functions use, as far as it can."""
    superuser = connect_as("")
    superuser.execute("create table public.sprung (who text)")
    superuser.execute("grant insert on public.sprung to public")
    [(database,)] = superuser.execute("select current_database()").fetchall()
    grant = sql.SQL("grant create, temporary on database {} to {}")
    superuser.execute(grant.format(sql.Identifier(database), sql.Identifier(house.login(kind))))
    connection = connect_as(kind)
    connection.execute(TRAPS.encode())
    return connection


def sprung(connect_as: ConnectAs) -> list[tuple[object, ...]]:
    return connect_as("").execute("select distinct who from public.sprung").fetchall()


PUBLISHING = (
    "select * from pgbus.applied()",
    "select generation from pgbus.stamp",
    (
        "select * from pgbus.publish(null, array['orders.created'], array[null::text], array[1], "
        "array['{}'], array['{}'], array['0a1f1b9c-0000-4000-8000-000000000000']::uuid[], "
        "interval '1 day', null, null, true)"
    ),
    (
        "select * from pgbus.publish(null, array['orders.created', 'orders.paid'], "
        "array[null, null]::text[], array[1, 2], array['{}', '{}'], array['{}', '{}'], null, "
        "interval '1 day', null, array[0.0, 60.0], true)"
    ),
    "select pgbus.put_1(array['{}'], array['{}'])",
    (
        "select * from pgbus.record_types('shop', array['a'], array[1], array['A'], "
        "array[null]::text[], array['f'], array['{}'])"
    ),
    "select pgbus.record_publisher('a', 1, 'shop', '', 'here', 'f', '{}')",
)
SERVING = (
    *PUBLISHING,
    "select pgbus.declare('billing', true, false)",
    "select pgbus.bind(1, array['orders', 'orders.#'], true)",
    "select * from pgbus.event_types(null)",
    (
        "select pgbus.start_worker(1, '', '', 1, interval '1 s', array[1], '[[]]', '[[]]', "
        "array[true])"
    ),
    "select pgbus.accept(1, '', array[1], array['a'], array[1], array['f'], array['{}'])",
    "select pgbus.heartbeat(1)",
    "select * from pgbus.poll(array[1], array[1])",
    (
        "begin deferrable; select pgbus.acknowledge_billing(1, t.lane, 1, true, t.msg_id, true) "
        "from pgbus.take_billing(1, 1, false, -9e18::bigint, 9, 1, 1, 1000, true, true, false) t "
        "where t.available; commit"
    ),
    "select * from pgbus.take_billing(1, 1, true, 0, 99, 10, 10, 1000, true, true, false)",
    (
        "select pgbus.settle_billing(1, array[1], array[1], array[true], array[1], array[1], "
        "'{}', '{}', '{}', '{}', '{}', '{}', '{}', true, false, false)"
    ),
    "select pgbus.forget(1, array[1])",
    "select pgbus.known_elsewhere(1, 1, 'a@1')",
    "select pgbus.idle(array[1])",
    "select * from pgbus.reap()",
    "select pgbus.end_sessions()",
    "select pgbus.forget_published()",
    "select pgbus.stop_worker(1)",
)
OPERATING = (
    "select pgbus.declare('invoicing', true, true)",
    "select pgbus.bind(3, array['orders', 'orders.#'], true)",
    "select * from pgbus.bindings()",
    "select * from pgbus.status(null)",
    "select pgbus.has_subscription('billing')",
    "select * from pgbus.dead_letters('billing', 0, 10)",
    "select pgbus.redrive('billing', null, null)",
    "select pgbus.drop_dead_letters('billing', null)",
    "select pgbus.start_tail(1, array['orders'])",
    "select * from pgbus.read_tail(1, 1)",
    "select pgbus.stop_tail(1)",
    "select pgbus.sweep_tails()",
    "select * from pgbus.publishers()",
    "select * from pgbus.acceptors()",
    "select pgbus.forget_type('a', 1)",
)


@pytest.mark.parametrize(
    ("kind", "statements"),
    [("publisher", PUBLISHING), ("billing", SERVING), ("operator", OPERATING)],
)
def test_what_shadows_the_catalog_is_not_run_as_the_owner(
    house: House, connect_as: ConnectAs, kind: str, statements: tuple[str, ...]
) -> None:
    hostile = lay_traps(house, connect_as, kind)
    for statement in statements:
        hostile.execute(statement.encode())
    assert sprung(connect_as) == []


def test_the_traps_do_spring(house: House, connect_as: ConnectAs, bus_as: BusAs) -> None:
    """In a function of the owner's that has no search_path of its own."""
    hostile = lay_traps(house, connect_as, "publisher")
    superuser = connect_as("")
    superuser.execute(
        "create function public.careless() returns text language plpgsql security definer "
        "as $$ begin return lower('A'); end $$"
    )
    hostile.execute("select public.careless()")
    assert sprung(connect_as) == [("postgres",)]


TEXTS = ["", "'", '"', "'; drop table pgbus.lease; --", "$function$", "%I", "\\", "x\n", "a'||'b"]


@pytest.mark.parametrize("text", [*TEXTS, "Billing", "billing_dlq", "pgbus_tail_1", "x" * 44])
def test_no_name_gets_into_a_statement(connect_as: ConnectAs, text: str) -> None:
    """Through every door that takes a name and builds a statement with it."""
    operator, owner = connect_as("operator"), connect_as("owner")
    invalid, unknown = psycopg.errors.InvalidName, psycopg.errors.UndefinedObject
    for connection, statement, error in (
        (operator, "select pgbus.declare(%s, true, true)", invalid),
        (owner, "select pgbus.rename_subscription('shipping', %s)", invalid),
        (operator, "select * from pgbus.dead_letters(%s, 0, 1)", unknown),
        (operator, "select pgbus.redrive(%s, null, null)", unknown),
        (operator, "select pgbus.drop_dead_letters(%s, null)", unknown),
    ):
        with pytest.raises(error):
            connection.execute(statement.encode(), (text,))
    assert operator.execute("select * from pgbus.status(array[%s])", (text,)).fetchall() == []
    dropped = owner.execute("select pgbus.drop_subscription(%s, true)", (text,)).fetchall()
    assert dropped == [(None,)]
    assert owner.execute("select pgbus.rename_subscription(%s, 'x')", (text,)).fetchall() == [
        (False,)
    ]
