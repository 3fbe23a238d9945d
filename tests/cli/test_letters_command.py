import json
from uuid import uuid4

import pytest

from pgbus import Bus, Reject
from tests.cli.command import call, pgbus
from tests.waiting import eventually


@pytest.fixture
def letters(bus: Bus) -> Bus:
    """A bus with three dead letters in ``billing``."""

    @bus.subscribe("orders.*", name="billing")
    def handle(event: dict[str, int]) -> None:
        raise Reject(f"order {event['n']} is\x1b[31m odd")

    bus.on_error(lambda _: None)
    bus.declare()
    with bus.running():
        for n in range(3):
            bus.publish("orders.new", {"n": n}, key="k")
        eventually(lambda: bus.status()[0].dead_letters == 3)
    return bus


def test_they_are_listed_and_shown(letters: Bus, bus_dsn: str) -> None:
    listed = call(bus_dsn, "dlq", "list", "billing", "--json").json
    assert [letter["body"] for letter in listed] == [{"n": 0}, {"n": 1}, {"n": 2}]
    table = call(bus_dsn, "dlq", "list", "billing", "--limit", "2")
    assert "there are more: --limit 4" in table.stdout
    assert "Reject: order 0 is\\x1b[31m odd" in table.stdout
    for which in (listed[1]["id"], str(listed[1]["number"])):
        shown = call(bus_dsn, "dlq", "show", "billing", which)
        assert '"n": 1' in shown.stdout
        assert "traceback" in shown.stdout
        assert "\x1b" not in shown.stdout
    assert call(bus_dsn, "dlq", "show", "billing", "99", "--json").code == 1
    assert call(bus_dsn, "dlq", "list", "nobody").code == 1


def test_they_are_redriven_and_dropped(letters: Bus, bus_dsn: str) -> None:
    ids = [letter["id"] for letter in call(bus_dsn, "dlq", "list", "billing", "--json").json]
    assert call(bus_dsn, "dlq", "redrive", "billing", ids[0], "--json").json == {"redriven": 1}
    again = call(bus_dsn, "dlq", "redrive", "billing", ids[0], str(uuid4()))
    assert again.code == 1
    assert "2 of the ids given are no dead letters there" in again.stderr
    assert call(bus_dsn, "dlq", "drop", "billing", ids[1]).stdout == "dropped 1 dead letter\n"
    assert call(bus_dsn, "dlq", "drop", "billing", "--all", "--json").json == {"dropped": 1}
    assert "billing has no dead letters" in call(bus_dsn, "dlq", "list", "billing").stdout


def test_status_counts_them(letters: Bus, bus_dsn: str) -> None:
    (one,) = json.loads(pgbus("status", "billing", "--json", dsn=bus_dsn).stdout)
    assert one == {
        "name": "billing",
        "ready": 0,
        "in_flight": 0,
        "delayed": 0,
        "parked": 0,
        "dead_letters": 3,
        "oldest_age": None,
        "workers": 0,
    }
    plain = call(bus_dsn, "status").stdout.splitlines()
    assert plain[0].split()[:2] == ["subscription", "ready"]
    assert plain[1].split() == ["billing", "0", "0", "0", "0", "3", "-", "0"]
    unknown = call(bus_dsn, "status", "nobody")
    assert unknown.code == 1
    assert "there is no subscription 'nobody'" in unknown.stderr
