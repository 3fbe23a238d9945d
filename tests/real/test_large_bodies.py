"""Bodies as large as a bus takes them, more than a process fetches at once."""

import secrets
from collections import defaultdict

from pgbus import Bus, Context, Outgoing

HEX_DIGITS = 900_000
EVENTS = 48
KEYS = 6


def test_more_bytes_than_a_process_fetches_at_once(bus: Bus) -> None:
    seen: dict[str | None, list[int]] = defaultdict(list)

    @bus.subscribe("#", name="all", concurrency=4)
    def on_anything(event: dict[str, str], context: Context) -> None:
        assert len(event["random"]) == HEX_DIGITS
        seen[context.key].append(int(context.headers["n"]))

    bus.declare()
    bodies = [{"random": secrets.token_hex(HEX_DIGITS // 2)} for _ in range(EVENTS)]
    bus.publish_many(
        [
            Outgoing("a", body, key=f"k{n % KEYS}", headers={"n": str(n)})
            for n, body in enumerate(bodies)
        ]
    )
    with bus.running():
        assert bus.wait_idle(100), bus.status()
    assert seen == {f"k{key}": list(range(key, EVENTS, KEYS)) for key in range(KEYS)}
