"""Every role by every function and table of the catalog: what is new must be entered here."""

import re

import pytest

from tests.security.conftest import ConnectAs
from tests.security.house import House

ROLES = ("publisher", "billing", "shipping", "operator", "owner", "nobody")
PUBLISHERS = {"publisher", "billing", "shipping"}
SUBSCRIBERS = {"billing", "shipping"}
OPERATOR = {"operator"}
NOBODY: set[str] = set()

# Who may call what, beside the owner, who may call everything.
FUNCTIONS: dict[str, set[str]] = {
    "applied": PUBLISHERS | OPERATOR,
    # publishing
    "publish": PUBLISHERS,
    "remember": PUBLISHERS,
    "put_1": PUBLISHERS,
    "put_2": PUBLISHERS,
    "record_types": PUBLISHERS,
    "record_publisher": PUBLISHERS,
    "sweep_tails": PUBLISHERS | OPERATOR,
    # serving a subscription
    "take_billing": {"billing"},
    "settle_billing": {"billing"},
    "acknowledge_billing": {"billing"},
    "take_shipping": {"shipping"},
    "settle_shipping": {"shipping"},
    "acknowledge_shipping": {"shipping"},
    "start_worker": SUBSCRIBERS,
    "accept": SUBSCRIBERS,
    "heartbeat": SUBSCRIBERS,
    "stop_worker": SUBSCRIBERS,
    "reap": SUBSCRIBERS,
    "dead_workers": SUBSCRIBERS,
    "end_sessions": SUBSCRIBERS,
    "forget": SUBSCRIBERS,
    "forget_published": SUBSCRIBERS,
    "poll": SUBSCRIBERS,
    "known_elsewhere": SUBSCRIBERS,
    "idle": SUBSCRIBERS,
    # both; what they may do there differs
    "declare": SUBSCRIBERS | OPERATOR,
    "find_subscription": SUBSCRIBERS | OPERATOR,
    "bind": SUBSCRIBERS | OPERATOR,
    "event_types": SUBSCRIBERS | OPERATOR,
    # operating
    "create_subscription": OPERATOR,
    "bindings": OPERATOR,
    "status": OPERATOR,
    "has_subscription": OPERATOR,
    "dead_letters": OPERATOR,
    "redrive": OPERATOR,
    "drop_dead_letters": OPERATOR,
    "start_tail": OPERATOR,
    "read_tail": OPERATOR,
    "stop_tail": OPERATOR,
    "publishers": OPERATOR,
    "acceptors": OPERATOR,
    "forget_type": OPERATOR,
    # the owner's
    "drop_subscription": NOBODY,
    "rename_subscription": NOBODY,
    "make_roles": NOBODY,
    "keep_roles": NOBODY,
    # parts of others
    **dict.fromkeys(
        [
            "bindings_changed",
            "attend_bindings",
            "ends",
            "wake",
            "tail_id",
            "feed_tail",
            "readable",
            "generate",
            "filled",
            "lane",
            "dead_lane",
            "caller",
            "require_subscriptions",
            "require_worker",
            "require_handling",
            "require_name",
            "check_name",
            "degenerate",
            "refuse_live",
            "rename_queue",
            "wake_on_insert",
            "bury",
            "bury_billing",
            "bury_shipping",
            "ends_at",
            "promote",
            "counts",
            "doors",
            "subscriber_role",
            "grant_execute",
            "grant_subscription",
            "hand_over",
            "renew_subscriptions",
            "make_role",
        ],
        NOBODY,
    ),
}
# Those that a role may call have the owner's rights, but for these.
CALLERS_RIGHTS = {"declare", "end_sessions"}

TABLES = {
    "subscription",
    "binding",
    "routing",
    "worker",
    "worker_subscription",
    "lease",
    "attempt",
    "scheduled",
    "published",
    "tail",
    "template",
    "event_type",
    "publisher",
    "accepted",
    "migration",
    "roles",
}
QUEUES = {
    f"{kind}_{name}{suffix}"
    for kind in "qa"
    for name in ("billing", "shipping")
    for suffix in ("", "_dlq")
}
PGMQ_TABLES = {"meta", "topic_bindings", "notify_insert_throttle"} | QUEUES
RIGHTS = ("select", "insert", "update", "delete", "truncate", "references", "trigger")


@pytest.fixture
def superuser(connect_as: ConnectAs) -> ConnectAs:
    return connect_as


def test_every_function_is_here(superuser: ConnectAs) -> None:
    rows = superuser("").execute(
        "select proname from pg_proc where pronamespace = 'pgbus'::regnamespace"
    )
    found = [name for (name,) in rows]
    assert sorted(found) == sorted(FUNCTIONS)  # and none has a second signature


@pytest.mark.parametrize("role", ROLES)
def test_functions(role: str, house: House, superuser: ConnectAs) -> None:
    rows = superuser("").execute(
        "select proname, has_function_privilege(%s, oid, 'execute') from pg_proc "
        "where pronamespace = 'pgbus'::regnamespace",
        (house.login(role),),
    )
    allowed = {name for name, may in rows if may}
    if role == "owner":
        assert allowed == FUNCTIONS.keys()
    else:
        assert allowed == {name for name, roles in FUNCTIONS.items() if role in roles}


def test_the_public_may_call_nothing(superuser: ConnectAs) -> None:
    rows = superuser("").execute(
        "select proname from pg_proc where pronamespace = 'pgbus'::regnamespace "
        "and has_function_privilege('public', oid, 'execute')"
    )
    assert rows.fetchall() == []


@pytest.mark.parametrize("role", ROLES)
def test_relations(role: str, house: House, superuser: ConnectAs) -> None:
    """No right on any table, column or sequence; a publisher reads the view of one stamp."""
    rows = (
        superuser("")
        .execute(
            """
        select n.nspname, c.relname, c.relkind::text, x.privilege
        from pg_class c join pg_namespace n on n.oid = c.relnamespace,
            unnest(%(rights)s || array['usage']) as x(privilege)
        where n.nspname in ('pgbus', 'pgmq') and case
            when c.relkind = 'S' then x.privilege in ('usage', 'select', 'update')
                and has_sequence_privilege(%(role)s, c.oid, x.privilege)
            when c.relkind in ('r', 'p', 'v', 'm', 'f') then x.privilege <> 'usage' and (
                has_table_privilege(%(role)s, c.oid, x.privilege)
                or x.privilege in ('select', 'insert', 'update', 'references')
                    and has_any_column_privilege(%(role)s, c.oid, x.privilege))
            end
        """,
            {"role": house.login(role), "rights": list(RIGHTS)},
        )
        .fetchall()
    )
    rights = {(schema, name, right) for schema, name, kind, right in rows if kind != "S"}
    sequences = [name for _, name, kind, _ in rows if kind == "S"]
    if role == "owner":
        assert rights == {
            *(("pgbus", table, right) for table in TABLES | {"stamp"} for right in RIGHTS),
            *(("pgmq", table, right) for table in PGMQ_TABLES for right in RIGHTS),
        }
        return
    assert rights == ({("pgbus", "stamp", "select")} if role in PUBLISHERS else set())
    assert sequences == []


@pytest.mark.parametrize("role", ROLES)
def test_schemas(role: str, house: House, superuser: ConnectAs) -> None:
    rows = superuser("").execute(
        "select s.name || '.' || x.privilege from unnest(array['pgbus', 'pgmq']) as s(name), "
        "unnest(array['usage', 'create']) as x(privilege) "
        "where has_schema_privilege(%s, s.name, x.privilege)",
        (house.login(role),),
    )
    found = {right for (right,) in rows}
    if role == "owner":
        assert found == {"pgbus.usage", "pgbus.create", "pgmq.usage", "pgmq.create"}
    else:
        assert found == (set() if role == "nobody" else {"pgbus.usage"})


def test_whose_rights_functions_have_and_on_which_path(house: House, superuser: ConnectAs) -> None:
    rows = (
        superuser("")
        .execute(
            "select proname, prosecdef, proowner::regrole::text, "
            "coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp'] "
            "from pg_proc where pronamespace = 'pgbus'::regnamespace"
        )
        .fetchall()
    )
    doors = {name for name, roles in FUNCTIONS.items() if roles} - CALLERS_RIGHTS
    assert {name for name, definer, *_ in rows if definer} == doors | {"bindings_changed"}
    assert {owner for _, _, owner, _ in rows} == {house.role("owner")}
    assert [name for name, _, _, fixed in rows if not fixed] == []


def test_everything_belongs_to_the_owners_role(house: House, superuser: ConnectAs) -> None:
    rows = superuser("").execute(
        """
        select relowner::regrole::text from pg_class
        where relnamespace in ('pgbus'::regnamespace, 'pgmq'::regnamespace)
        union select proowner::regrole::text from pg_proc
        where pronamespace in ('pgbus'::regnamespace, 'pgmq'::regnamespace)
        union select typowner::regrole::text from pg_type
        where typnamespace in ('pgbus'::regnamespace, 'pgmq'::regnamespace)
        union select nspowner::regrole::text from pg_namespace where nspname in ('pgbus', 'pgmq')
        """
    )
    assert rows.fetchall() == [(house.role("owner"),)]


def test_roles_cannot_log_in_nor_do_anything_else(house: House, superuser: ConnectAs) -> None:
    rows = superuser("").execute(
        "select rolname, rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolbypassrls "
        "or rolreplication from pg_roles where rolname ~ %s and rolname !~ '_as_'",
        (f"^{re.escape(house.prefix)}_",),
    )
    assert dict(rows.fetchall()) == {
        house.role(kind): False
        for kind in (
            [
                "owner",
                "operator",
                "publisher",
                "subscriber",
                "subscriber_billing",
                "subscriber_shipping",
            ]
        )
    }


def test_a_subscriber_without_a_subscription_serves_none(
    house: House, superuser: ConnectAs
) -> None:
    """The role that all subscribers share opens no door to a queue."""
    rows = superuser("").execute(
        "select proname from pg_proc where pronamespace = 'pgbus'::regnamespace "
        "and has_function_privilege(%s, oid, 'execute') and proname ~ '^(take|settle)_'",
        (house.role("subscriber"),),
    )
    assert rows.fetchall() == []


@pytest.mark.parametrize("role", [role for role in ROLES if role != "owner"])
def test_no_table_can_be_read_or_written(role: str, connect_as: ConnectAs) -> None:
    """What the catalog says, PostgreSQL does."""
    connection = connect_as(role)
    for table in [f"pgbus.{one}" for one in TABLES] + [f"pgmq.{one}" for one in PGMQ_TABLES]:
        for statement in (f"select from {table}", f"delete from {table}", f"truncate {table}"):
            with pytest.raises(Exception, match="permission denied for"):
                connection.execute(statement.encode())
