"""What GitHub tells of issues, pull requests, pushes and releases: event types for its webhooks.

A webhook ``issues`` with the action ``opened`` is published as ``github.issues.opened``; one
without an action, such as ``push``, as ``github.push.none``. Each topic has a type, whose fields
are those that a handler is likely to want; what is not declared is ignored.
"""

from typing import Any

from examples.github_events.issues import IssueActivity
from examples.github_events.pull_requests import PullRequestActivity
from examples.github_events.pushes import Pushed
from examples.github_events.releases import ReleaseActivity

__all__ = ["Activity", "Pushed", "topic_of"]

Activity = IssueActivity | PullRequestActivity | ReleaseActivity | Pushed
"""For the annotations of handlers."""


def topic_of(event: str, payload: dict[str, Any]) -> str:
    """Return the topic of a webhook.

    Parameters:
        event: its header ``X-GitHub-Event``.
        payload: its body.
    """
    return f"github.{event}.{payload.get('action') or 'none'}"
