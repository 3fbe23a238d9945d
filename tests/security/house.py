"""A cluster's roles as ``pgbus install --roles`` makes them, and a login for each of them."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgbus import Bus
from tests.servers import Server

PASSWORD = "not a secret"
GROUPS = {
    "owner": "owner",
    "operator": "operator",
    "publisher": "publisher",
    "billing": "subscriber_billing",
    "shipping": "subscriber_shipping",
    "nobody": None,
}
"""The logins, each with the one role it has."""


class House:
    """See the module; the roles are the cluster's, a database has them by being copied."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.server = server
        self.prefix = prefix

    def role(self, kind: str) -> str:
        return f"{self.prefix}_{kind}"

    def login(self, kind: str) -> str:
        return f"{self.prefix}_as_{kind}"

    def dsn(self, dsn: str, kind: str) -> str:
        """The database ``dsn`` as somebody who may log in has it."""
        return make_conninfo(dsn, user=self.login(kind), password=PASSWORD)

    def hire(self, kind: str, attributes: str = "", group: str | None = None) -> None:
        """Create a login with one role."""
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            create = "create role {} login " + attributes + " password {}"
            name = sql.Identifier(self.login(kind))
            connection.execute(sql.SQL(create).format(name, sql.Literal(PASSWORD)))
            if group is not None:
                grant = sql.SQL("grant {} to {}").format(sql.Identifier(self.role(group)), name)
                connection.execute(grant)

    def leave(self) -> None:
        """Drop every role; the databases in which they have rights are gone."""
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            rows = connection.execute(
                "select rolname from pg_roles where starts_with(rolname, %s) "
                "order by rolname ~ '_as_'",  # a login that made the others goes last
                (self.prefix + "_",),
            )
            for (name,) in rows.fetchall():
                connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def new_prefix() -> str:
    return f"t{secrets.token_hex(3)}"


def declare(bus: Bus, *names: str) -> None:
    """Declare subscriptions whose handlers do nothing: ``orders.#`` each."""
    for name in names:

        @bus.subscribe("orders.#", name=name)
        def on_order(event: object) -> None: ...

    bus.declare()


@contextmanager
def a_house(server: Server, *subscriptions: str) -> Iterator[tuple[House, str]]:
    """Make a database with roles, and give both back at the end."""
    house = House(server, new_prefix())
    dsn = server.create_database()
    try:
        with Bus(dsn) as bus:
            bus.install()
            declare(bus, *subscriptions)
            bus.install(roles=house.prefix)
        yield house, dsn
    finally:
        server.drop_database(dsn)
        house.leave()
