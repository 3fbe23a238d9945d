"""Webhooks ``issues``."""

from msgspec import UNSET, UnsetType

from examples.github_events.base import GitHubEvent
from examples.github_events.parts import Edits, Issue, Label, Milestone, NewHome, OldHome, User


class IssueEvent(GitHubEvent):
    """Something happened to an issue."""

    action: str
    issue: Issue


class IssueAssigned(IssueEvent, topic="github.issues.assigned"):
    """Somebody is to do it."""

    assignee: User | UnsetType | None = UNSET


class IssueClosed(IssueEvent, topic="github.issues.closed"):
    """It is done, or will not be."""


class IssueDeleted(IssueEvent, topic="github.issues.deleted"):
    """It was never there."""


class IssueDemilestoned(IssueEvent, topic="github.issues.demilestoned"):
    """It is planned no more."""

    milestone: Milestone | UnsetType = UNSET


class IssueEdited(IssueEvent, topic="github.issues.edited"):
    """Its title or body changed."""

    changes: Edits | UnsetType = UNSET
    label: Label | UnsetType = UNSET


class IssueLabeled(IssueEvent, topic="github.issues.labeled"):
    """It got a label."""

    label: Label | UnsetType = UNSET


class IssueLocked(IssueEvent, topic="github.issues.locked"):
    """Nobody may comment."""


class IssueMilestoned(IssueEvent, topic="github.issues.milestoned"):
    """It is planned."""

    milestone: Milestone | UnsetType = UNSET


class IssueOpened(IssueEvent, topic="github.issues.opened"):
    """It is new, here at least."""

    changes: OldHome | UnsetType = UNSET


class IssuePinned(IssueEvent, topic="github.issues.pinned"):
    """Everybody is to see it."""


class IssueReopened(IssueEvent, topic="github.issues.reopened"):
    """It was not done."""


class IssueTransferred(IssueEvent, topic="github.issues.transferred"):
    """It went to another repository."""

    changes: NewHome


class IssueUnassigned(IssueEvent, topic="github.issues.unassigned"):
    """Somebody is not to do it."""

    assignee: User | UnsetType | None = UNSET


class IssueUnlabeled(IssueEvent, topic="github.issues.unlabeled"):
    """It lost a label."""

    label: Label | UnsetType = UNSET


class IssueUnlocked(IssueEvent, topic="github.issues.unlocked"):
    """Everybody may comment again."""


class IssueUnpinned(IssueEvent, topic="github.issues.unpinned"):
    """It is one of many again."""


IssueActivity = (
    IssueAssigned
    | IssueClosed
    | IssueDeleted
    | IssueDemilestoned
    | IssueEdited
    | IssueLabeled
    | IssueLocked
    | IssueMilestoned
    | IssueOpened
    | IssuePinned
    | IssueReopened
    | IssueTransferred
    | IssueUnassigned
    | IssueUnlabeled
    | IssueUnlocked
    | IssueUnpinned
)
