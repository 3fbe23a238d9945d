"""Webhooks ``release``."""

from msgspec import UNSET, UnsetType

from examples.github_events.base import GitHubEvent
from examples.github_events.parts import Edits, Release


class ReleaseEvent(GitHubEvent):
    """Something happened to a release."""

    action: str
    release: Release


class ReleaseCreated(ReleaseEvent, topic="github.release.created"):
    """It was made, or a draft of it."""


class ReleaseDeleted(ReleaseEvent, topic="github.release.deleted"):
    """It is gone."""


class ReleaseEdited(ReleaseEvent, topic="github.release.edited"):
    """Its name or body changed."""

    changes: Edits | UnsetType = UNSET


class ReleasePrereleased(ReleaseEvent, topic="github.release.prereleased"):
    """A preview is out."""


class ReleasePublished(ReleaseEvent, topic="github.release.published"):
    """It, or a preview of it, is out."""


class ReleaseReleased(ReleaseEvent, topic="github.release.released"):
    """It is out."""


class ReleaseUnpublished(ReleaseEvent, topic="github.release.unpublished"):
    """It was taken back."""


ReleaseActivity = (
    ReleaseCreated
    | ReleaseDeleted
    | ReleaseEdited
    | ReleasePrereleased
    | ReleasePublished
    | ReleaseReleased
    | ReleaseUnpublished
)
