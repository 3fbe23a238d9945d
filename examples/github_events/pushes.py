"""Webhooks ``push``."""

from msgspec import UNSET, UnsetType

from examples.github_events.base import GitHubEvent
from examples.github_events.parts import Commit, Flag, Signature, Text


class Pushed(GitHubEvent, topic="github.push.none"):
    """A branch or a tag was moved, made or deleted."""

    ref: str
    before: str
    after: str
    commits: list[Commit]
    pusher: Signature
    head_commit: Commit | UnsetType | None = UNSET
    base_ref: Text = UNSET
    compare: Text = UNSET
    created: Flag = UNSET
    deleted: Flag = UNSET
    forced: Flag = UNSET
