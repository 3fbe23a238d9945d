"""Webhooks as events: does every handler get exactly what was published?

The argument is a file of JSON lines, gzipped, one webhook each: ``event``, ``action`` (may be
null) and ``payload``, any JSON object::

    python -m examples.github_webhooks ../shared/data/github-webhooks.jsonl.gz

Each payload is published as ``github.<event>.<action>``, with the number of its line in a header.
The program ends with what it found, and with status 1 where a body differs from its line. It uses
``$PGBUS_DSN``, or else the embedded PostgreSQL.
"""

import gzip
import json
import sys
from typing import Any

from pgbus import Bus, Context, Outgoing


def topic(webhook: dict[str, Any]) -> str:
    """Return the topic of a webhook; some have no action."""
    return f"github.{webhook['event']}.{webhook['action'] or 'none'}"


def main() -> int:
    """Publish, handle, compare; returns the exit status."""
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as lines:
        webhooks: list[dict[str, Any]] = [json.loads(line) for line in lines]
    received: dict[int, dict[str, Any]] = {}
    with Bus(service="example") as bus:
        bus.install()
        for left_behind in bus.status("example_webhooks"):
            bus.drop_subscription(left_behind.name, force=True)

        @bus.subscribe("github.#", name="example_webhooks")
        def on_webhook(event: dict[str, Any], context: Context) -> None:
            received[int(context.headers["line"])] = event

        with bus.running():
            bus.publish_many(
                Outgoing(topic(webhook), webhook["payload"], headers={"line": f"{line}"})
                for line, webhook in enumerate(webhooks)
            )
            bus.wait_idle(60)
        bus.drop_subscription("example_webhooks", force=True)
    differ = [line for line, one in enumerate(webhooks) if received.get(line) != one["payload"]]
    print(f"{len(received)} of {len(webhooks)} webhooks received, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
