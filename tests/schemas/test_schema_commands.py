"""``pgbus schema …`` and ``pgbus asyncapi``, as a person or CI runs them."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgbus import Bus
from pgbus.core.schema import describe
from tests.cli.command import call, environment, pgbus
from tests.schemas import asyncapi_tools
from tests.schemas.kinds import event, handler

SHOP = """
from typing import Any
from pgbus import Bus, Event, downcast, upcast

{types}

bus = Bus(service="shop", service_version="2.0")

{rest}
"""
SAME = """
class OrderCreated(Event, topic="orders.created", version=1, key="order_id"):
    \"\"\"An order came in.\"\"\"
    order_id: str
    cents: int
"""
NEWER = """
class OrderCreated(Event, topic="orders.created", version=2, key="order_id"):
    order_id: str
    total: str
"""
HANDLER = """
@bus.subscribe("orders.*", name="warehouse")
def on_order(event: OrderCreated) -> None: ...
"""

V1 = event(("order_id", str), ("cents", int), key="order_id")
V2 = event(("order_id", str), ("cents", int), ("currency", str, "EUR"), version=2)
PAID = event(("order_id", str), topic="orders.paid", name="OrderPaid")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the module ``shop`` with a bus, and return its folder."""

    def written(types: str, rest: str = "") -> Path:
        (tmp_path / "shop.py").write_text(SHOP.format(types=types, rest=rest))
        return tmp_path

    return written


@pytest.fixture
def billing(bus_dsn: str) -> Iterator[Bus]:
    """A running service that takes version 1; the registry knows that and ``orders.paid``."""
    with Bus(bus_dsn, service="billing", service_version="1.4") as bus:
        bus.subscribe("orders.created", name="billing")(handler(V1, id))
        bus.publish(PAID(order_id="a"))
        bus.publish(V1(order_id="a", cents=1))
        with bus.running():
            yield bus


def check(dsn: str, folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return pgbus("schema", "check", "shop:bus", "--dsn", dsn, *more, cwd=folder)


def test_check_names_whom_a_change_breaks_and_exits_1(
    bus_dsn: str, billing: Bus, write: Callable[..., Path]
) -> None:
    folder = write(NEWER)
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        # A second host, quieter for a while; as nobody beats for it, its lease is long.
        connection.execute(
            "with w as (insert into pgbus.worker select (jsonb_populate_record(w, "
            "jsonb_build_object('id', w.id + 1, 'host', 'other', 'lease', w.lease + '1h', "
            "'expires_at', w.expires_at + '1h'))).* from pgbus.worker w returning id) "
            "insert into pgbus.worker_subscription select (jsonb_populate_record(s, "
            "jsonb_build_object('worker', w.id))).* from pgbus.worker_subscription s, w"
        )
        connection.execute(
            "insert into pgbus.accepted select (jsonb_populate_record(a, jsonb_build_object("
            "'worker', a.worker + 1))).* from pgbus.accepted a"
        )
    done = check(bus_dsn, folder)
    assert done.returncode == 1, done
    assert "FAIL  orders.created version 2  new; compared with version 1" in done.stdout
    assert "cents: was removed; the older type needs it (the older cannot read" in done.stdout
    assert "total: was added: string without a default (the newer cannot read" in done.stdout
    assert re.search(
        r"breaks billing 1\.4 on 2 hosts, seen \d+(\.\d)? m?s ago: it knows version 1 \(cents: was",
        done.stdout,
    )
    assert "add @upcast(…, from_version=1)" in done.stdout
    assert done.stdout.endswith("1 event type, 1 fault\n")
    assert done.stderr == ""
    found = json.loads(check(bus_dsn, folder, "--json").stdout)
    assert found["good"] is False
    [broken] = found["types"][0]["breaks"]
    assert (broken["subscription"], broken["service_version"], broken["hosts"]) == (
        "billing",
        "1.4",
        2,
    )
    with psycopg.connect(bus_dsn) as connection:
        known = connection.execute("select topic, version from pgbus.event_type").fetchall()
    assert sorted(known) == [("orders.created", 1), ("orders.paid", 1)], "it records nothing"


def test_check_passes_what_breaks_nobody(
    bus_dsn: str, billing: Bus, write: Callable[..., Path]
) -> None:
    done = check(bus_dsn, write(SAME))
    assert (done.returncode, done.stdout) == (
        0,
        "ok    orders.created version 1  unchanged\n1 event type, no faults\n",
    )
    casts = """
@upcast(OrderCreated, from_version=1)
def up(old: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": old["order_id"], "total": str(old["cents"])}

@downcast(OrderCreated, to_version=1)
def down(new: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": new["order_id"], "cents": int(new["total"])}
"""
    done = check(bus_dsn, write(NEWER, casts))
    assert done.returncode == 0, done
    assert json.loads(check(bus_dsn, write(NEWER, casts), "--json").stdout)["good"] is True


def test_check_says_what_the_codes_subscriptions_could_not_read(
    bus_dsn: str, billing: Bus, write: Callable[..., Path]
) -> None:
    done = check(bus_dsn, write(SAME, HANDLER))
    assert done.returncode == 1
    assert "FAIL  subscription warehouse\n" in done.stdout
    assert (
        "cannot read orders.paid version 1, which billing 1.4 publishes: it has no type for "
        "orders.paid"
    ) in done.stdout


def test_check_refuses_two_classes_for_one_version(
    bus_dsn: str, write: Callable[..., Path]
) -> None:
    twice = SAME + SAME.replace("class OrderCreated", "class Other").replace("int", "float")
    done = check(bus_dsn, write(twice))
    assert done.returncode == 1
    assert "shop.OrderCreated and shop.Other are both orders.created version 1" in done.stderr
    assert check(bus_dsn, write(SAME + SAME.replace("class OrderC", "class C"))).returncode == 0


def test_check_without_a_registry_is_one_line(dsn: str, write: Callable[..., Path]) -> None:
    done = check(dsn, write(SAME))
    assert done.returncode == 1
    assert "run 'pgbus install'" in done.stderr


def test_list_and_show(bus_dsn: str, billing: Bus) -> None:
    shown = call(bus_dsn, "schema", "list").stdout.splitlines()
    assert " ".join(shown[0].split()) == (
        "topic version type key recorded published by accepted by"
    )
    assert re.fullmatch(
        r"orders\.created +1  OrderCreated  order_id  20\S+ by billing  "
        r"billing 1\.4 \(1 host, \d+(\.\d)? m?s ago\) +billing",
        shown[1],
    )
    found = call(bus_dsn, "schema", "list", "--json").json
    assert [(one["topic"], one["version"], one["name"]) for one in found] == [
        ("orders.created", 1, "OrderCreated"),
        ("orders.paid", 1, "OrderPaid"),
    ]
    assert found[0]["fingerprint"] == describe(V1).fingerprint
    assert found[0]["acceptors"][0]["service_version"] == "1.4"
    assert found[1]["acceptors"] == []
    assert found[1]["publishers"][0]["service"] == "billing"
    one = call(bus_dsn, "schema", "show", "orders.created")
    assert one.stdout.startswith("orders.created version 1\n")
    assert '"cents": {' in one.stdout
    full = call(bus_dsn, "schema", "show", "orders.created", "1", "--json").json
    assert full["schema"] == json.loads(json.dumps(describe(V1).document))


def test_what_is_not_there_is_said(bus_dsn: str) -> None:
    assert "no event types yet" in call(bus_dsn, "schema", "list").stdout
    assert call(bus_dsn, "schema", "list", "--json").json == []
    for command in (("show", "orders.created"), ("diff", "orders.created"), ("export",)):
        done = call(bus_dsn, "schema", *command)
        assert (done.code, done.stdout) == (1, "")
        assert "the registry knows no event type" in done.stderr


def test_diff(bus_dsn: str) -> None:
    with Bus(bus_dsn) as bus:
        bus.publish(V1(order_id="a", cents=1))
        alone = call(bus_dsn, "schema", "diff", "orders.created")
        assert (alone.code, "has no earlier version" in alone.stderr) == (1, True)
        bus.publish(V2(order_id="a", cents=1))
    done = call(bus_dsn, "schema", "diff", "orders.created")
    assert done.code == 0
    assert done.stdout.splitlines() == [
        'currency: was added: string, which may be left out, default "EUR"',
        "version 2 reads version 1",
        "version 1 reads version 2",
    ]
    found = call(bus_dsn, "schema", "diff", "orders.created", "2", "1", "--json").json
    assert (found["old"], found["new"], found["backward"], found["forward"]) == (2, 1, True, True)
    assert [one["path"] for one in found["changes"]] == ["currency"]
    missing = call(bus_dsn, "schema", "diff", "orders.created", "1", "7")
    assert (missing.code, "no version 7" in missing.stderr) == (1, True)


def test_forget(bus_dsn: str, billing: Bus) -> None:
    done = call(bus_dsn, "schema", "forget", "orders.created", "1")
    assert (done.code, done.stdout) == (0, "forgot orders.created version 1\n")
    assert "live workers of billing still take it as it was" in done.stderr
    again = call(bus_dsn, "schema", "forget", "orders.created", "1")
    assert (again.code, again.stdout) == (1, "")
    assert "no version 1 of 'orders.created'" in again.stderr


def test_the_command_that_a_conflict_names_is_there(bus_dsn: str) -> None:
    otherwise = event(("order_id", str), ("cents", str), key="order_id")
    with Bus(bus_dsn) as bus, Bus(bus_dsn) as later:
        bus.publish(V1(order_id="a", cents=1))
        with pytest.raises(Exception, match="pgbus schema forget") as caught:
            later.publish(otherwise(order_id="a", cents="1"))
        command = re.search(r"'pgbus (schema forget [^']+)'", str(caught.value))
        assert command is not None
        assert call(bus_dsn, *command[1].split()).code == 0
        later.publish(otherwise(order_id="a", cents="1"))


def test_export_has_a_stable_layout(bus_dsn: str, billing: Bus, tmp_path: Path) -> None:
    folder = tmp_path / "schemas" / "of events"
    done = call(bus_dsn, "schema", "export", "--output", str(folder))
    assert (done.code, done.stdout) == (0, "")
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["orders.created.v1.json", "orders.paid.v1.json"]
    text = files[0].read_text()
    document = json.loads(text)
    assert list(document)[:3] == ["$schema", "$id", "title"]
    assert document["$id"] == "urn:pgbus:orders.created:1"
    assert document["$ref"] == "#/$defs/OrderCreated"
    assert list(document["$defs"]["OrderCreated"]["properties"]) == ["order_id", "cents"]
    assert text.endswith("}\n")
    assert text.startswith('{\n  "$schema"')
    call(bus_dsn, "schema", "export", "-o", str(folder))
    assert files[0].read_text() == text
    one = call(bus_dsn, "schema", "export", "*.paid").json
    assert list(one) == ["orders.paid.v1"]
    (tmp_path / "file").touch()
    failed = call(bus_dsn, "schema", "export", "-o", str(tmp_path / "file" / "below"))
    assert (failed.code, "cannot be written" in failed.stderr) == (1, True)


def test_codegen_makes_a_module_that_another_service_runs_with(
    bus_dsn: str, billing: Bus, tmp_path: Path
) -> None:
    billing.publish(V2(order_id="a", cents=1))
    module = tmp_path / "shop_events.py"
    done = call(bus_dsn, "schema", "codegen", "--output", str(module))
    assert (done.code, done.stdout) == (0, "")
    assert call(bus_dsn, "schema", "codegen").stdout == module.read_text()
    newest = call(bus_dsn, "schema", "codegen", "orders.created", "--newest").stdout
    assert re.findall(r"^class (\w+)", newest, re.MULTILINE) == ["OrderCreated"]
    service = tmp_path / "service.py"
    service.write_text(
        "from shop_events import OrderCreated, OrderCreatedV1, OrderPaid\n"
        "from pgbus import Bus\n"
        "with Bus(service='other') as bus:\n"
        "    bus.publish_many([OrderCreated(order_id='b', cents=2), OrderPaid(order_id='b')])\n"
        "    print(bus.publish(OrderCreatedV1(order_id='c', cents=3)).queues)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", service],
        env=environment(bus_dsn),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "1\n", ran.stderr
    assert billing.wait_idle()
    assert list(billing.dead_letters("billing")) == []


def test_asyncapi_of_a_bus_needs_no_database(write: Callable[..., Path]) -> None:
    folder = write(SAME, HANDLER)
    nowhere = "postgresql://nobody@127.0.0.1:1/x"
    done = pgbus("asyncapi", "shop:bus", dsn=nowhere, cwd=folder)
    assert done.returncode == 0, done
    made = json.loads(done.stdout)
    asyncapi_tools.validate(made)
    assert made["info"] == {"title": "shop", "version": "2.0"}
    assert list(made["channels"]) == ["orders.created"]
    assert list(made["operations"]) == ["warehouse.orders.created"]
    assert made["components"]["messages"]["OrderCreatedV1"]["summary"] == "An order came in."
    file = folder / "docs" / "asyncapi.json"
    more = ("--sends", "orders.#", "--output", str(file))
    assert pgbus("asyncapi", "shop:bus", *more, dsn=nowhere, cwd=folder).returncode == 0
    assert list(json.loads(file.read_text())["operations"]) == [
        "send.orders.created",
        "warehouse.orders.created",
    ]


def test_asyncapi_asks_the_registry_what_is_sent(bus_dsn: str, write: Callable[..., Path]) -> None:
    with Bus(bus_dsn, service="shop") as shop, Bus(bus_dsn, service="other") as other:
        shop.publish(V1(order_id="a", cents=1))
        other.publish(V2(order_id="a", cents=1))
        other.publish(PAID(order_id="a"))
    done = pgbus("asyncapi", "shop:bus", "--registry", dsn=bus_dsn, cwd=write(SAME))
    made: dict[str, Any] = json.loads(done.stdout)
    assert list(made["operations"]) == ["send.orders.created"]
    assert list(made["channels"]["orders.created"]["messages"]) == [
        "OrderCreatedV1",
        "OrderCreatedV2",
    ]
