"""What all webhooks of a repository say."""

from msgspec import UNSET, UnsetType

from examples.github_events.parts import Installation, Organization, Repository, User
from pgbus import Event


class GitHubEvent(Event):
    """What all webhooks of a repository say."""

    repository: Repository
    sender: User
    organization: Organization | UnsetType = UNSET
    installation: Installation | UnsetType = UNSET
