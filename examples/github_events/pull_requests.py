"""Webhooks ``pull_request``."""

from msgspec import UNSET, UnsetType

from examples.github_events.base import GitHubEvent
from examples.github_events.parts import (
    Label,
    Milestone,
    PullRequest,
    PullRequestEdits,
    Team,
    Text,
    User,
)


class PullRequestEvent(GitHubEvent):
    """Something happened to a pull request."""

    action: str
    number: int
    pull_request: PullRequest


class PullRequestAssigned(PullRequestEvent, topic="github.pull_request.assigned"):
    """Somebody is to do it."""

    assignee: User | UnsetType | None = UNSET


class PullRequestAutoMergeDisabled(
    PullRequestEvent, topic="github.pull_request.auto_merge_disabled"
):
    """It waits for somebody to merge it."""

    reason: Text = UNSET


class PullRequestAutoMergeEnabled(PullRequestEvent, topic="github.pull_request.auto_merge_enabled"):
    """It merges itself when it may."""

    reason: Text = UNSET


class PullRequestClosed(PullRequestEvent, topic="github.pull_request.closed"):
    """It was merged, or given up."""


class PullRequestConvertedToDraft(PullRequestEvent, topic="github.pull_request.converted_to_draft"):
    """It is not ready after all."""


class PullRequestDemilestoned(PullRequestEvent, topic="github.pull_request.demilestoned"):
    """It is planned no more."""

    milestone: Milestone | UnsetType = UNSET


class PullRequestDequeued(PullRequestEvent, topic="github.pull_request.dequeued"):
    """It left the merge queue."""

    reason: Text = UNSET


class PullRequestEdited(PullRequestEvent, topic="github.pull_request.edited"):
    """Its title, body or base changed."""

    changes: PullRequestEdits | UnsetType = UNSET


class PullRequestEnqueued(PullRequestEvent, topic="github.pull_request.enqueued"):
    """It entered the merge queue."""


class PullRequestLabeled(PullRequestEvent, topic="github.pull_request.labeled"):
    """It got a label."""

    label: Label | UnsetType = UNSET


class PullRequestLocked(PullRequestEvent, topic="github.pull_request.locked"):
    """Nobody may comment."""


class PullRequestMilestoned(PullRequestEvent, topic="github.pull_request.milestoned"):
    """It is planned."""

    milestone: Milestone | UnsetType = UNSET


class PullRequestOpened(PullRequestEvent, topic="github.pull_request.opened"):
    """It is new."""


class PullRequestReadyForReview(PullRequestEvent, topic="github.pull_request.ready_for_review"):
    """It is no draft any more."""


class PullRequestReopened(PullRequestEvent, topic="github.pull_request.reopened"):
    """It was not given up."""


class PullRequestReviewRequestRemoved(
    PullRequestEvent, topic="github.pull_request.review_request_removed"
):
    """Somebody need not look at it."""

    requested_reviewer: User | UnsetType | None = UNSET
    requested_team: Team | UnsetType = UNSET


class PullRequestReviewRequested(PullRequestEvent, topic="github.pull_request.review_requested"):
    """Somebody is to look at it."""

    requested_reviewer: User | UnsetType | None = UNSET
    requested_team: Team | UnsetType = UNSET


class PullRequestSynchronize(PullRequestEvent, topic="github.pull_request.synchronize"):
    """Its head moved."""

    before: str
    after: str


class PullRequestUnassigned(PullRequestEvent, topic="github.pull_request.unassigned"):
    """Somebody is not to do it."""

    assignee: User | UnsetType | None = UNSET


class PullRequestUnlabeled(PullRequestEvent, topic="github.pull_request.unlabeled"):
    """It lost a label."""

    label: Label | UnsetType = UNSET


class PullRequestUnlocked(PullRequestEvent, topic="github.pull_request.unlocked"):
    """Everybody may comment again."""


PullRequestActivity = (
    PullRequestAssigned
    | PullRequestAutoMergeDisabled
    | PullRequestAutoMergeEnabled
    | PullRequestClosed
    | PullRequestConvertedToDraft
    | PullRequestDemilestoned
    | PullRequestDequeued
    | PullRequestEdited
    | PullRequestEnqueued
    | PullRequestLabeled
    | PullRequestLocked
    | PullRequestMilestoned
    | PullRequestOpened
    | PullRequestReadyForReview
    | PullRequestReopened
    | PullRequestReviewRequestRemoved
    | PullRequestReviewRequested
    | PullRequestSynchronize
    | PullRequestUnassigned
    | PullRequestUnlabeled
    | PullRequestUnlocked
)
