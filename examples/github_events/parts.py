"""What the webhooks of GitHub consist of.

GitHub leaves fields out, and writes null, where its documentation does not say so. So only what
identifies a thing is required. ``UNSET`` is what was left out, which is not the same as null: an
event that is published again says what the webhook said.
"""

from datetime import datetime

from msgspec import UNSET, Struct, UnsetType, field

Text = str | UnsetType | None
Flag = bool | UnsetType | None
Number = int | UnsetType | None
Moment = datetime | int | UnsetType | None
"""In pushes, some are seconds since 1970."""


class User(Struct, frozen=True, kw_only=True):
    """A person, a bot or an organization."""

    id: int
    login: str
    node_id: Text = UNSET
    type: Text = UNSET
    site_admin: Flag = UNSET
    name: Text = UNSET
    email: Text = UNSET
    avatar_url: Text = UNSET
    html_url: Text = UNSET


class Organization(Struct, frozen=True, kw_only=True):
    """The organization that a repository belongs to."""

    id: int
    login: str
    node_id: Text = UNSET
    description: Text = UNSET


class Installation(Struct, frozen=True, kw_only=True):
    """The GitHub App that the webhook was sent to."""

    id: int
    node_id: Text = UNSET


class License(Struct, frozen=True, kw_only=True):
    """Of a repository."""

    key: str
    name: Text = UNSET
    spdx_id: Text = UNSET
    url: Text = UNSET


class Repository(Struct, frozen=True, kw_only=True):
    """Where it happened."""

    id: int
    name: str
    full_name: str
    owner: User
    node_id: Text = UNSET
    private: Flag = UNSET
    fork: Flag = UNSET
    archived: Flag = UNSET
    description: Text = UNSET
    homepage: Text = UNSET
    html_url: Text = UNSET
    language: Text = UNSET
    visibility: Text = UNSET
    default_branch: Text = UNSET
    license: License | UnsetType | None = UNSET
    topics: list[str] | UnsetType | None = UNSET
    size: Number = UNSET
    forks_count: Number = UNSET
    stargazers_count: Number = UNSET
    open_issues_count: Number = UNSET
    created_at: Moment = UNSET
    updated_at: Moment = UNSET
    pushed_at: Moment = UNSET


class Label(Struct, frozen=True, kw_only=True):
    """Of an issue or a pull request."""

    id: int
    name: str
    color: Text = UNSET
    default: Flag = UNSET
    description: Text = UNSET


class Milestone(Struct, frozen=True, kw_only=True):
    """What issues and pull requests are planned for."""

    id: int
    number: int
    title: str
    state: Text = UNSET
    description: Text = UNSET
    creator: User | UnsetType | None = UNSET
    open_issues: Number = UNSET
    closed_issues: Number = UNSET
    created_at: Moment = UNSET
    updated_at: Moment = UNSET
    closed_at: Moment = UNSET
    due_on: Moment = UNSET


class Reactions(Struct, frozen=True, kw_only=True):
    """How often people reacted, and how."""

    total_count: int
    up: Number = field(name="+1", default=UNSET)
    down: Number = field(name="-1", default=UNSET)
    laugh: Number = UNSET
    hooray: Number = UNSET
    confused: Number = UNSET
    heart: Number = UNSET
    rocket: Number = UNSET
    eyes: Number = UNSET


class PullRequestLink(Struct, frozen=True, kw_only=True):
    """Says of an issue that it is a pull request."""

    html_url: Text = UNSET
    merged_at: Moment = UNSET


class Issue(Struct, frozen=True, kw_only=True):
    """An issue; a pull request is one, too."""

    id: int
    number: int
    title: str
    node_id: Text = UNSET
    html_url: Text = UNSET
    state: Text = UNSET
    state_reason: Text = UNSET
    body: Text = UNSET
    user: User | UnsetType | None = UNSET
    assignee: User | UnsetType | None = UNSET
    assignees: list[User] | UnsetType | None = UNSET
    labels: list[Label] | UnsetType | None = UNSET
    milestone: Milestone | UnsetType | None = UNSET
    locked: Flag = UNSET
    active_lock_reason: Text = UNSET
    draft: Flag = UNSET
    comments: Number = UNSET
    author_association: Text = UNSET
    reactions: Reactions | UnsetType | None = UNSET
    pull_request: PullRequestLink | UnsetType | None = UNSET
    created_at: Moment = UNSET
    updated_at: Moment = UNSET
    closed_at: Moment = UNSET


class Team(Struct, frozen=True, kw_only=True):
    """A team that was asked for a review."""

    id: int
    name: str
    slug: Text = UNSET
    description: Text = UNSET
    privacy: Text = UNSET
    permission: Text = UNSET


class Reviewer(Struct, frozen=True, kw_only=True):
    """A person with a ``login``, or a team with a ``name``."""

    id: int
    login: Text = UNSET
    name: Text = UNSET
    slug: Text = UNSET
    html_url: Text = UNSET


class Branch(Struct, frozen=True, kw_only=True):
    """One end of a pull request; the repository of its head may be gone."""

    ref: str
    sha: str
    label: Text = UNSET
    user: User | UnsetType | None = UNSET
    repo: Repository | UnsetType | None = UNSET


class AutoMerge(Struct, frozen=True, kw_only=True):
    """How a pull request is to be merged once it may be."""

    merge_method: Text = UNSET
    enabled_by: User | UnsetType | None = UNSET
    commit_title: Text = UNSET
    commit_message: Text = UNSET


class PullRequest(Struct, frozen=True, kw_only=True):
    """A pull request."""

    id: int
    number: int
    title: str
    head: Branch
    base: Branch
    node_id: Text = UNSET
    html_url: Text = UNSET
    state: Text = UNSET
    body: Text = UNSET
    user: User | UnsetType | None = UNSET
    assignee: User | UnsetType | None = UNSET
    assignees: list[User] | UnsetType | None = UNSET
    requested_reviewers: list[Reviewer] | UnsetType | None = UNSET
    requested_teams: list[Team] | UnsetType | None = UNSET
    labels: list[Label] | UnsetType | None = UNSET
    milestone: Milestone | UnsetType | None = UNSET
    draft: Flag = UNSET
    locked: Flag = UNSET
    active_lock_reason: Text = UNSET
    merged: Flag = UNSET
    mergeable: Flag = UNSET
    rebaseable: Flag = UNSET
    mergeable_state: Text = UNSET
    merge_commit_sha: Text = UNSET
    merged_by: User | UnsetType | None = UNSET
    auto_merge: AutoMerge | UnsetType | None = UNSET
    author_association: Text = UNSET
    maintainer_can_modify: Flag = UNSET
    comments: Number = UNSET
    review_comments: Number = UNSET
    commits: Number = UNSET
    additions: Number = UNSET
    deletions: Number = UNSET
    changed_files: Number = UNSET
    created_at: Moment = UNSET
    updated_at: Moment = UNSET
    closed_at: Moment = UNSET
    merged_at: Moment = UNSET


class Asset(Struct, frozen=True, kw_only=True):
    """A file of a release."""

    id: int
    name: str
    label: Text = UNSET
    state: Text = UNSET
    content_type: Text = UNSET
    size: Number = UNSET
    download_count: Number = UNSET
    uploader: User | UnsetType | None = UNSET
    browser_download_url: Text = UNSET
    created_at: Moment = UNSET
    updated_at: Moment = UNSET


class Release(Struct, frozen=True, kw_only=True):
    """A release."""

    id: int
    tag_name: str
    node_id: Text = UNSET
    html_url: Text = UNSET
    target_commitish: Text = UNSET
    name: Text = UNSET
    body: Text = UNSET
    draft: Flag = UNSET
    prerelease: Flag = UNSET
    author: User | UnsetType | None = UNSET
    assets: list[Asset] | UnsetType | None = UNSET
    reactions: Reactions | UnsetType | None = UNSET
    tarball_url: Text = UNSET
    zipball_url: Text = UNSET
    discussion_url: Text = UNSET
    created_at: Moment = UNSET
    published_at: Moment = UNSET


class Signature(Struct, frozen=True, kw_only=True):
    """Who wrote a commit, as git knows it."""

    name: str
    email: Text = UNSET
    username: Text = UNSET
    date: Moment = UNSET


class Commit(Struct, frozen=True, kw_only=True):
    """A commit of a push."""

    id: str
    message: str
    tree_id: Text = UNSET
    distinct: Flag = UNSET
    timestamp: Moment = UNSET
    url: Text = UNSET
    author: Signature | UnsetType | None = UNSET
    committer: Signature | UnsetType | None = UNSET
    added: list[str] | UnsetType | None = UNSET
    modified: list[str] | UnsetType | None = UNSET
    removed: list[str] | UnsetType | None = UNSET


class Before(Struct, frozen=True, kw_only=True):
    """What a text said before it was edited."""

    text: str | None = field(name="from")


class Edits(Struct, frozen=True, kw_only=True):
    """What was edited."""

    title: Before | UnsetType = UNSET
    body: Before | UnsetType = UNSET
    name: Before | UnsetType = UNSET


class BranchEdit(Struct, frozen=True, kw_only=True):
    """Another branch than before."""

    ref: Before
    sha: Before


class PullRequestEdits(Edits, frozen=True, kw_only=True):
    """What was edited in a pull request."""

    base: BranchEdit | UnsetType = UNSET


class NewHome(Struct, frozen=True, kw_only=True):
    """Where an issue was transferred to."""

    issue: Issue = field(name="new_issue")
    repository: Repository = field(name="new_repository")


class OldHome(Struct, frozen=True, kw_only=True):
    """Where an issue came from that was opened by a transfer."""

    issue: Issue | None = field(name="old_issue")
    repository: Repository = field(name="old_repository")
