"""Webhooks of GitHub: what a handler receives is what was published, to the last detail."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from pgbus import Bus, Context, Outgoing
from pgbus.core.patterns import matches

NO_ACTION = "none"
PATTERNS = {
    "everything": ["github.#"],
    "created": ["github.*.created"],
    "silent": ["github.*.none"],
    "issues": ["github.issues.*", "github.issue_comment.*", "#.created"],
}


@pytest.fixture(scope="module")
def webhooks(shared_data: Path) -> list[dict[str, Any]]:
    with gzip.open(shared_data / "github-webhooks.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def topic(webhook: dict[str, Any]) -> str:
    return f"github.{webhook['event']}.{webhook['action'] or NO_ACTION}"


def exactly(body: Any) -> str:
    """Return a text that tells 1 from 1.0 and from True, which ``==`` does not."""
    return json.dumps(body, sort_keys=True)


def test_bodies_arrive_as_they_were_published(bus: Bus, webhooks: list[dict[str, Any]]) -> None:
    seen: dict[str, dict[int, Any]] = defaultdict(dict)

    def on_webhook(event: dict[str, Any], context: Context) -> None:
        line = int(context.headers["line"])
        assert line not in seen[context.subscription]
        assert context.topic == topic(webhooks[line])
        seen[context.subscription][line] = event

    for name, patterns in PATTERNS.items():
        bus.subscribe(*patterns, name=name)(on_webhook)
    with bus.running():
        receipts = bus.publish_many(
            [
                Outgoing(
                    topic(webhook),
                    webhook["payload"],
                    key=webhook["event"],
                    headers={"line": str(line)},
                )
                for line, webhook in enumerate(webhooks)
            ]
        )
        assert bus.wait_idle(30)

    assert len(seen["everything"]) == len(webhooks) == 205
    for name, patterns in PATTERNS.items():
        assert list(bus.dead_letters(name)) == []
        expected = {
            line: webhook["payload"]
            for line, webhook in enumerate(webhooks)
            if any(matches(pattern, topic(webhook)) for pattern in patterns)
        }
        assert len(expected) > 10
        assert seen[name] == expected
        assert exactly(seen[name]) == exactly(expected)
    assert sum(receipt.queues for receipt in receipts) == sum(map(len, seen.values()))
    assert any(not text.isascii() for text in map(str, seen["everything"].values()))
