"""The file changes of two real repositories, as events."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from pgbus import Outgoing

NO_EXTENSION = "none"


class Change(msgspec.Struct, frozen=True):
    """One commit's change of one file; ``n`` counts the changes of a path from 1."""

    repo: str
    path: str
    n: int
    change: str
    sha: str
    at: str
    lines_added: int | None  # None for a binary file
    lines_deleted: int | None
    subject: str

    @property
    def key(self) -> str:
        return f"{self.repo} {self.path}"

    @property
    def topic(self) -> str:
        extension = PurePosixPath(self.path).suffix.removeprefix(".")
        return f"repo.{self.change}.{re.sub('[^A-Za-z0-9_-]', '_', extension) or NO_EXTENSION}"

    def outgoing(self) -> Outgoing:
        return Outgoing(self.topic, self, key=self.key)


def read(folder: Path) -> Iterator[Change]:
    """Yield the changes, oldest first within each repository."""
    decoder = msgspec.json.Decoder(Change)
    with gzip.open(folder / "repo-changes.jsonl.gz") as lines:
        for line in lines:
            yield decoder.decode(line)
