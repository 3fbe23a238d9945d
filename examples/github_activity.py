"""Webhooks as typed events: what goes on in the repositories of GitHub.

The argument is a file of JSON lines, gzipped, one webhook each: ``event``, ``action`` (may be
null) and ``payload``, any JSON object::

    python -m examples.github_activity ../shared/data/github-webhooks.jsonl.gz

The payloads are published as they came. Two subscriptions read what they need of them, by the types
of ``examples/github_events``: one writes a line for whatever happens, the other takes pushes alone.
The program uses ``$PGBUS_DSN``, or else the embedded PostgreSQL.
"""

import gzip
import json
import sys
from collections import Counter
from typing import Any

from examples.github_events import Activity, Pushed, topic_of
from examples.github_events.issues import IssueEvent
from examples.github_events.pull_requests import PullRequestEvent
from examples.github_events.releases import ReleaseEvent
from pgbus import Bus, Context, Outgoing


def line(event: Activity) -> str:
    """Say what happened."""
    where, who = event.repository.full_name, event.sender.login
    match event:
        case IssueEvent():
            return f"{where}: {who} {event.action} issue {event.issue.number}"
        case PullRequestEvent():
            return f"{where}: {who} {event.action} pull request {event.number}"
        case ReleaseEvent():
            return f"{where}: {who} {event.action} release {event.release.tag_name}"
        case Pushed():
            return f"{where}: {who} pushed {len(event.commits)} commits to {event.ref}"


def outgoing(webhook: dict[str, Any]) -> Outgoing:
    """Return a webhook as it is to be published: what happens in a repository stays in order."""
    payload = webhook["payload"]
    repository = payload.get("repository", {}).get("full_name")
    return Outgoing(topic_of(webhook["event"], payload), payload, key=repository)


def main() -> None:
    """Publish, handle, and say what came."""
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
        webhooks: list[dict[str, Any]] = [json.loads(one) for one in file]
    lines: list[str] = []
    committers = Counter[str]()
    with Bus(service="example") as bus:
        bus.install()
        for left_behind in bus.status("example_activity", "example_pushes"):
            bus.drop_subscription(left_behind.name, force=True)

        @bus.subscribe("github.#", name="example_activity", concurrency=1)
        def on_activity(event: Activity | dict[str, Any], context: Context) -> None:
            said = f"({context.topic})" if isinstance(event, dict) else line(event)
            lines.append(said)

        @bus.subscribe("github.push.*", name="example_pushes", concurrency=1)
        def on_push(event: Pushed) -> None:
            committers[event.pusher.name] += len(event.commits)

        with bus.running():
            bus.publish_many(outgoing(webhook) for webhook in webhooks)
            if not bus.wait_idle(60):
                sys.exit("not handled in 60 s")
        for name in ("example_activity", "example_pushes"):
            bus.drop_subscription(name, force=True)
    print("\n".join(sorted(one for one in lines if not one.startswith("("))))
    print(f"and {sum(one.startswith('(') for one in lines)} others")
    print(", ".join(f"{who} pushed {count} commits" for who, count in committers.most_common()))


if __name__ == "__main__":
    main()
