"""The commands as processes: exit codes, what goes to stdout and what to stderr."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgbus import Bus
from tests.cli.command import COMMAND, PATIENCE, at_hand, call, environment, pgbus
from tests.schemas.kinds import event
from tests.waiting import eventually

SHOP = """
from typing import Any
from pgbus import Bus

bus = Bus()
nothing = 3

@bus.subscribe("orders.#", name="billing")
def bill(event: Any) -> None:
    print("billed", event["n"], flush=True)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a module ``shop`` whose bus is ``bus``."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "broken.py").write_text("import no_such_thing")
    (tmp_path / "elsewhere.py").write_text(
        "from pgbus import Bus\nbus = Bus('host=elsewhere dbname=x')"
    )
    return tmp_path


def test_version_and_help() -> None:
    assert pgbus("--version").stdout.startswith("pgbus ")
    shown = pgbus("--help")
    assert shown.returncode == 0
    for command in ("demo", "install", "declare", "run", "publish", "status", "bindings", "tail"):
        assert command in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish",),
        ("publish", "a.b"),
        ("publish", "a.b", "1", "--file", "x"),
        ("publish", "a.b", "-", "--id", "01a1fc10-fa07-7846-8c76-470c8eba2a25"),
        ("publish", "a.b", "1", "--header", "novalue"),
        ("publish", "a.b", "1", "--key", "k", "--key-field", "f"),
        ("install", "--print", "--json"),
        ("install", "--print", "--role-prefix", "pgbus"),
        ("declare", "no-colon"),
        ("dlq", "drop", "billing"),
        ("dlq", "redrive", "billing", "no-uuid"),
        ("status", "--interval", "0"),
        ("no-such-command",),
        ("tail",),
    ],
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    done = call("postgresql://nobody@127.0.0.1:1/x", *arguments)
    assert done.code == 2, done
    assert not done.stdout


def test_an_unreachable_database_is_one_line_without_a_password() -> None:
    done = pgbus("status", "--dsn", "postgresql://me:hush@127.0.0.1:1/shop")
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.count("could not be reached") == line.count("Connection refused") == 1
    assert "hush" not in line


def test_a_dsn_that_is_none_is_not_quoted() -> None:
    done = call("postgresql://me:hush@host:port:1/x", "status")
    assert done.code == 1
    assert "hush" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_install_prints_sql_without_a_database(dsn: str) -> None:
    done = pgbus("install", "--print")
    assert done.returncode == 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(done.stdout.encode())
    again = call(dsn, "install", "--json")
    assert again.json == {"pgmq": "kept", "migrations": [], "roles": []}


def test_install_says_what_it_did(dsn: str) -> None:
    before = call(dsn, "status")
    assert before.code == 1
    assert "run 'pgbus install'" in before.stderr
    assert "applied tables, " in call(dsn, "install").stdout
    assert "is up to date" in call(dsn, "install").stdout
    assert "no subscriptions yet" in call(dsn, "status").stdout
    assert call(dsn, "status", "--json").json == []


def test_a_prefix_without_roles_is_refused_and_nothing_is_done(dsn: str) -> None:
    refused = call(dsn, "install", "--role-prefix", "shop")
    assert refused.code == 2
    assert "--role-prefix names the roles of --roles" in refused.stderr
    assert "run 'pgbus install'" in call(dsn, "status").stderr


def test_declare_binds_without_running(bus_dsn: str, shop: Path) -> None:
    done = pgbus("declare", "shop:bus", "--json", dsn=bus_dsn, cwd=shop)
    assert json.loads(done.stdout) == [{"name": "billing", "bindings": ["orders", "orders.#"]}]
    assert call(bus_dsn, "publish", "orders.paid", "{}", "--json").json["queues"] == 1


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere:bus", "there is no module 'nowhere'"),
        ("shop.deeper:bus", "there is no module 'shop.deeper'"),
        ("shop:car", "module 'shop' has no 'car'"),
        ("shop:nothing", "is no pgbus.Bus, but of type int"),
        ("elsewhere:bus", "names its own database"),
    ],
)
def test_a_bus_that_cannot_be_found_is_explained(
    bus_dsn: str, shop: Path, target: str, reason: str
) -> None:
    done = pgbus("declare", target, "--dsn", bus_dsn, cwd=shop)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_users_module_raises_is_shown_whole(shop: Path) -> None:
    done = pgbus("run", "broken:bus", cwd=shop)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "no_such_thing" in done.stderr


def test_run_handles_until_it_is_told_to_stop(bus_dsn: str, shop: Path) -> None:
    assert pgbus("declare", "shop:bus", "--dsn", bus_dsn, cwd=shop).returncode == 0
    with Bus(bus_dsn) as bus:
        bus.publish("orders.paid", {"n": 1})
    with at_hand(
        subprocess.Popen(
            [*COMMAND, "run", "shop:bus", "--grace", "5"],
            env=environment(bus_dsn),
            cwd=shop,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "billed 1\n"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "INFO" in log
    assert "running: billing" in log
    assert "stopped" in log


LONG = """
from pgbus import Bus, Event

class OrderPaid(Event, topic="orders.paid"):
{fields}

bus = Bus()

@bus.subscribe("orders.*", name="billing")
def bill(event: OrderPaid) -> None: ...
"""


def test_an_error_is_shown_whole(bus_dsn: str, tmp_path: Path) -> None:
    """What to do about it comes last."""
    names = [f"what_was_paid_for_the_item_of_this_order_with_the_number_{n}" for n in range(9)]
    fields = "\n".join(f"    {name}: int" for name in names)
    (tmp_path / "long.py").write_text(LONG.format(fields=fields))
    paid = event(("cents", int), topic="orders.paid", name="OrderPaid")
    with Bus(bus_dsn) as bus:
        bus.publish(paid(cents=1))
    done = pgbus("run", "long:bus", "--log-level", "error", dsn=bus_dsn, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("pgbus: orders.paid version 1 is not what ")
    assert len(line) > 500
    assert line.endswith(
        "Give the changed type version=2, or the next that is free; or, where no event of it was "
        "ever stored, run 'pgbus schema forget orders.paid 1'"
    )


def test_without_its_extra_it_says_which(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('none', name='typer')")
    done = subprocess.run(
        [sys.executable, "-c", "from pgbus.cli import main; main()"],
        env={**environment(None), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "pip install 'pgbus[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_subscriptions_are_renamed_and_dropped(bus: Bus, bus_dsn: str) -> None:
    @bus.subscribe("orders.*", name="billing")
    def handle(event: dict[str, int]) -> None: ...

    bus.declare()
    bus.publish("orders.paid", {})
    assert call(bus_dsn, "bindings", "--json").json == [
        {"queue": "billing", "pattern": "orders.*", "made_by": "pgbus"}
    ]
    refused = call(bus_dsn, "subscription", "drop", "billing")
    assert refused.code == 1
    assert "still holds 1 events" in refused.stderr
    assert call(bus_dsn, "subscription", "rename", "billing", "invoicing").code == 0
    assert call(bus_dsn, "status", "invoicing", "--json").json[0]["ready"] == 1
    assert call(bus_dsn, "subscription", "rename", "billing", "other").code == 1
    assert call(bus_dsn, "subscription", "drop", "invoicing", "--force").code == 0
    assert "no bindings yet" in call(bus_dsn, "bindings").stdout


def test_a_killed_workers_subscription_can_be_dropped(bus_dsn: str, shop: Path) -> None:
    """Where no other worker lives, nobody else declares the killed one dead."""
    with at_hand(
        subprocess.Popen(
            [*COMMAND, "run", "shop:bus"],
            env=environment(bus_dsn),
            cwd=shop,
            stderr=subprocess.DEVNULL,
        )
    ) as process:
        look = ("status", "--json")
        eventually(lambda: (call(bus_dsn, *look).json or [{"workers": 0}])[0]["workers"] == 1)
        assert call(bus_dsn, "subscription", "drop", "billing").code == 1
        process.kill()
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        # Its last heartbeat may still be under way.
        sessions = (
            "select from pg_stat_activity "
            "where datname = current_database() and application_name ~ '^pgbus/'"
        )
        eventually(lambda: connection.execute(sessions).rowcount == 0)
        connection.execute("update pgbus.worker set lease = '0', expires_at = '-infinity'")
    assert call(bus_dsn, "subscription", "drop", "billing").code == 0
