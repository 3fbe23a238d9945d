"""Every odd body of a corpus, through publish and as a foreign message: nothing jams the queue."""

from typing import Any, Literal, NamedTuple

import msgspec
import psycopg
import pytest

from pgbus import Bus, PayloadError

Fate = Literal["arrives", "buried", "refused"]
LIMIT = 2**20
"""Bytes that a body may have."""


class Case(NamedTuple):
    """A body, as JSON text, and what becomes of it."""

    body: str
    published: Fate
    sent: Fate
    """As a foreign message, which PostgreSQL alone checks."""
    value: Any = None
    """What arrives, where it is not what Python makes of the JSON."""


CORPUS = {
    "nul in a value": Case(r'"\u0000"', "refused", "refused"),
    "nul in a key": Case(r'{"\u0000": 1}', "refused", "refused"),
    "lone surrogate": Case(r'"\ud800"', "refused", "refused"),
    "NaN": Case("NaN", "refused", "refused"),
    "Infinity": Case("[Infinity]", "refused", "refused"),
    "2^63": Case(str(2**63), "arrives", "arrives"),
    "2^64": Case(str(2**64), "arrives", "arrives"),
    "4301 digits": Case("1" * 4301, "refused", "buried"),
    # PostgreSQL keeps all digits; without a type they are read as a whole number.
    "1e308": Case("1e308", "arrives", "arrives", 10**308),
    "1e400": Case("1e400", "refused", "arrives", 10**400),
    "unreadable": Case(f"[{','.join(['1e131071'] * 9000)}]", "refused", "buried"),
    "depth 512": Case("[" * 512 + "]" * 512, "arrives", "arrives"),
    "depth 1000": Case("[" * 1000 + "]" * 1000, "refused", "buried"),
    "depth 10000": Case("[" * 10000 + "]" * 10000, "refused", "buried"),
    "duplicate keys": Case('{"a": 1, "a": 2}', "arrives", "arrives"),
    "null": Case("null", "arrives", "arrives"),
    "scalar": Case("3", "arrives", "arrives"),
    "array": Case("[1, [2]]", "arrives", "arrives"),
    "limit": Case('"' + "x" * (LIMIT - 2) + '"', "arrives", "arrives"),
    "limit and a byte": Case('"' + "x" * (LIMIT - 1) + '"', "refused", "arrives"),
}


@pytest.mark.parametrize("case", CORPUS.values(), ids=CORPUS.keys())
@pytest.mark.parametrize("foreign", [False, True], ids=["published", "sent"])
def test_a_body(bus: Bus, bus_dsn: str, case: Case, *, foreign: bool) -> None:
    seen: list[Any] = []

    @bus.subscribe("odd", name="odd")
    def handle(event: Any) -> None:
        seen.append(event)

    bus.declare()
    bus.publish("odd", "before", key="k")
    stored = send(bus_dsn, case.body) if foreign else publish(bus, case.body)
    bus.publish("odd", "behind", key="k")
    with bus.running():
        assert bus.wait_idle(100)  # the server needs seconds for one of them
    letters = len(list(bus.dead_letters("odd")))
    assert "before" in seen
    assert "behind" in seen
    fate = "refused" if not stored else "buried" if letters else "arrives"
    assert fate == (case.sent if foreign else case.published)
    assert len(seen) + letters == 2 + stored
    if fate == "arrives":
        assert (case.value or msgspec.json.decode(case.body)) in seen


def publish(bus: Bus, body: str) -> bool:
    """Whether it was stored."""
    try:
        bus.publish("odd", msgspec.Raw(body.encode()), key="k")
    except PayloadError:
        return False
    return True


def send(dsn: str, body: str) -> bool:
    """Whether it was stored."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        try:
            sql.execute("select pgmq.send('odd', %s::jsonb)", (body,))
        except psycopg.DataError:
            return False
    return True
