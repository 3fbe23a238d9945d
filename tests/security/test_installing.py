"""Roles: made by whom, from what, shared by which databases."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgbus import Bus, ConfigurationError, StoreError
from pgbus.store import migrate
from tests.security.house import PASSWORD, House, a_house, declare, new_prefix
from tests.servers import Server
from tests.store.catalog import snapshot


@pytest.fixture
def own_house(server: Server) -> Iterator[House]:
    """Names for roles that nobody has made yet; dropped after every database."""
    house = House(server, new_prefix())
    yield house
    house.leave()


@pytest.fixture
def owned(own_house: House, server: Server) -> Iterator[Callable[[str], str]]:
    """Make a database whose owner may nothing else but what is said: ``owned(attributes)``."""
    made = []

    def make(attributes: str) -> str:
        own_house.hire("deployer", attributes)
        dsn = server.create_database()
        made.append(dsn)
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            change = sql.SQL("alter database {} owner to {}")
            name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
            connection.execute(change.format(name, sql.Identifier(own_house.login("deployer"))))
        return own_house.dsn(dsn, "deployer")

    yield make
    for dsn in made:
        server.drop_database(dsn)


def owners(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            """
            select relowner::regrole::text from pg_class c
            join pg_namespace n on n.oid = c.relnamespace and n.nspname in ('pgbus', 'pgmq')
            union select proowner::regrole::text from pg_proc p
            join pg_namespace n on n.oid = p.pronamespace and n.nspname in ('pgbus', 'pgmq')
            union select nspowner::regrole::text from pg_namespace
            where nspname in ('pgbus', 'pgmq')
            """
        )
        return {name for (name,) in rows}


def works(house: House, dsn: str) -> None:
    """A publisher's event reaches a subscriber's handler."""
    for kind, group in (("p", "publisher"), ("s", "subscriber_billing")):
        house.hire(kind, group=group)
    handled: list[object] = []
    with Bus(house.dsn(dsn, "p")) as publisher, Bus(house.dsn(dsn, "s")) as subscriber:

        @subscriber.subscribe("orders.#", name="billing")
        def on_order(event: object) -> None:
            handled.append(event)

        with subscriber.running():
            publisher.publish("orders.created", 1)
            assert subscriber.wait_idle()
    assert handled[-1:] == [1]


def test_the_owner_of_a_database_who_may_create_roles_needs_no_superuser(
    own_house: House, owned: Callable[[str], str]
) -> None:
    dsn = owned("createrole nosuperuser")
    with Bus(dsn) as bus:
        bus.install(roles=own_house.prefix)
        declare(bus, "billing")
        bus.install(roles=own_house.prefix)
        assert owners(dsn) == {own_house.role("owner")}
        before = snapshot(dsn)
        bus.install(roles=own_house.prefix)
        bus.install()
        assert snapshot(dsn) == before
    works(own_house, dsn)


def test_where_it_was_used_without_roles_everything_is_handed_over(
    own_house: House, owned: Callable[[str], str]
) -> None:
    dsn = owned("createrole nosuperuser")
    with Bus(dsn) as bus:
        bus.install()
        declare(bus, "billing")
        bus.publish("orders.created", 0)
        assert owners(dsn) == {own_house.login("deployer")}
        bus.install(roles=own_house.prefix)
    assert owners(dsn) == {own_house.role("owner")}
    works(own_house, dsn)


def test_roles_that_an_administrator_made_need_no_createrole(
    own_house: House, owned: Callable[[str], str], server: Server
) -> None:
    dsn = owned("nocreaterole nosuperuser")
    with Bus(dsn) as bus:
        bus.install()
        declare(bus, "billing")
        with pytest.raises(StoreError, match="permission denied to create role"):
            bus.install(roles=own_house.prefix)
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            for kind in ("owner", "operator", "publisher"):
                connection.execute(f"create role {own_house.role(kind)}".encode())
            for kind, group in (("subscriber", "publisher"), ("subscriber_billing", "subscriber")):
                create = f"create role {own_house.role(kind)} in role {own_house.role(group)}"
                connection.execute(create.encode())
            grant = f"grant {own_house.role('owner')} to {own_house.login('deployer')}"
            connection.execute(grant.encode())
        bus.install(roles=own_house.prefix)
    assert owners(dsn) == {own_house.role("owner")}
    works(own_house, dsn)


def test_what_a_new_release_brings_is_handed_over_and_granted(
    own_house: House, owned: Callable[[str], str]
) -> None:
    dsn = owned("createrole nosuperuser")
    with Bus(dsn) as bus:
        bus.install(roles=own_house.prefix)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create table pgbus.later ()")
            connection.execute(
                "create or replace function pgbus.doors() returns table (kind text, function text) "
                "language sql as $$ values ('publisher', 'later') $$"
            )
            connection.execute("create function pgbus.later() returns int return 1")
            connection.execute("revoke all on function pgbus.later from public")
        bus.install()
        assert owners(dsn) == {own_house.role("owner")}
    own_house.hire("p", group="publisher")
    with psycopg.connect(own_house.dsn(dsn, "p")) as connection:
        assert connection.execute("select pgbus.later()").fetchall() == [(1,)]


def test_a_new_release_makes_the_functions_of_subscriptions_anew(
    own_house: House, owned: Callable[[str], str]
) -> None:
    """Those who run them may not."""
    dsn = owned("createrole nosuperuser")
    with Bus(dsn) as bus:
        bus.install()
        declare(bus, "billing")
        bus.install(roles=own_house.prefix)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "insert into pgbus.migration (number, name, checksum, breaking) "
                "values (9001, 'later', '', false)"
            )
            connection.execute("update pgbus.template set body = body || ' -- later'")
        bus.install()
    works(own_house, dsn)
    assert owners(dsn) == {own_house.role("owner")}


def test_the_printed_sql_makes_the_same_roles_and_rights(own_house: House, server: Server) -> None:
    printed, installed = server.create_database(), server.create_database()
    try:
        with psycopg.connect(printed, autocommit=True) as connection:
            connection.execute("".join(migrate.script(roles=own_house.prefix)).encode())
        with Bus(installed) as bus:
            bus.install(roles=own_house.prefix)
        assert snapshot(printed) == snapshot(installed)
    finally:
        for dsn in (printed, installed):
            server.drop_database(dsn)


def test_databases_share_roles_or_do_not(server: Server) -> None:
    """With one prefix CONNECT tells them apart; with two, nothing is shared."""
    with a_house(server, "billing") as (house, dsn), a_house(server, "billing") as (_, other):
        shared = server.create_database()
        try:
            with Bus(shared) as bus:
                bus.install(roles=house.prefix)
                declare(bus, "billing")
            house.hire("p", group="publisher")
            with Bus(house.dsn(dsn, "p")) as bus:
                bus.publish("orders.created", 1)
            with Bus(house.dsn(other, "p")) as bus, pytest.raises(StoreError, match="denied"):
                bus.publish("orders.created", 1)
            with Bus(house.dsn(shared, "p")) as bus:
                bus.publish("orders.created", 1)
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                name = sql.Identifier(str(conninfo_to_dict(shared)["dbname"]))
                revoke = sql.SQL("revoke connect on database {} from public")
                connection.execute(revoke.format(name))
            with Bus(house.dsn(shared, "p")) as bus, pytest.raises(StoreError, match="denied"):
                bus.publish("orders.created", 1)
        finally:
            server.drop_database(shared)


def test_one_database_has_one_prefix(server: Server) -> None:
    with (
        a_house(server) as (house, dsn),
        Bus(dsn) as bus,
        pytest.raises(StoreError, match=f"the roles of this database begin with {house.prefix}"),
    ):
        bus.install(roles="another")


@pytest.mark.parametrize("prefix", ["", "Shop", "shop-1", "1shop", "ninechars", 'a"', "a\n"])
def test_prefixes_that_no_role_can_have(prefix: str, bus: Bus) -> None:
    with pytest.raises(ConfigurationError, match="cannot begin with"):
        bus.install(roles=prefix)


def test_the_longest_names_fit(server: Server) -> None:
    longest = "b" + "x" * 42
    house = House(server, f"t{new_prefix()}")
    dsn = server.create_database()
    try:
        with Bus(dsn) as bus:
            bus.install()
            declare(bus, longest)
            bus.install(roles=house.prefix)
        house.hire("s", group=f"subscriber_{longest}")
        with Bus(make_conninfo(dsn, user=house.login("s"), password=PASSWORD)) as bus:

            @bus.subscribe("orders.#", name=longest)
            def on_order(event: object) -> None: ...

            with bus.running():
                assert bus.wait_idle()
    finally:
        server.drop_database(dsn)
        house.leave()


def test_without_roles_nobody_gets_any(bus_dsn: str, server: Server) -> None:
    before = snapshot(bus_dsn)["right"]
    with Bus(bus_dsn) as bus:
        bus.install()
    assert snapshot(bus_dsn)["right"] == before
    with psycopg.connect(bus_dsn) as connection:
        rows = connection.execute(
            "select proname from pg_proc where pronamespace = 'pgbus'::regnamespace "
            "and has_function_privilege('public', oid, 'execute')"
        )
        assert rows.fetchall() == []
