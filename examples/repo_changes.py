"""The history of two repositories as events: is every file's story told in order?

The argument is a file of JSON lines, gzipped, one change of one file each: ``repo``, ``path``,
``change`` (added, modified or deleted), and ``n``, which counts the changes of a path from 1::

    python -m examples.repo_changes ../shared/data/repo-changes.jsonl.gz

Each change is published as ``repo.<change>.<extension>``, with the file as its key. Two
subscriptions handle them in 8 threads each, and fail now and then. The program ends with what it
found, and with status 1 where a change was lost or came out of order. It uses ``$PGBUS_DSN``, or
else the embedded PostgreSQL.
"""

import gzip
import logging
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from pgbus import Bus, Outgoing, Retry

RETRY = Retry(max_attempts=20, initial=0.01, maximum=0.05)
FAILURES = 0.03
BATCH = 500


class Change(msgspec.Struct, frozen=True):
    """One change of one file; what else a line says travels, too, and does not matter here."""

    repo: str
    path: str
    change: str
    n: int

    @property
    def key(self) -> str:
        """The file: its changes are handled in order."""
        return f"{self.repo} {self.path}"

    @property
    def topic(self) -> str:
        """What kind of change of what kind of file."""
        extension = PurePosixPath(self.path).suffix.removeprefix(".")
        # A topic's words are of letters, digits, "_" and "-".
        return f"repo.{self.change}.{re.sub('[^A-Za-z0-9_-]', '_', extension) or 'none'}"


def read(path: Path) -> Iterator[tuple[Change, Outgoing]]:
    """Yield the changes of a file, and each line as it is under its topic and key."""
    with gzip.open(path) as lines:
        for line in lines:
            change = msgspec.json.decode(line, type=Change)
            yield change, Outgoing(change.topic, msgspec.Raw(line.rstrip()), key=change.key)


class Story:
    """What one subscription was told."""

    def __init__(self, bus: Bus, name: str, pattern: str, keys: Iterable[str]) -> None:
        self.name = name
        self.expected = Counter(keys)
        self.told: dict[str, list[int]] = defaultdict(list)
        self.failures = 0
        bus.subscribe(pattern, name=name, concurrency=8, retry=RETRY)(self.on_change)

    def on_change(self, change: Change) -> None:
        """Note a change, or fail."""
        if random.random() < FAILURES:
            self.failures += 1
            raise RuntimeError("bad luck")
        # Only one thread at a time has a key.
        self.told[change.key].append(change.n)

    def wrong(self) -> list[str]:
        """Return the keys whose changes did not come as 1, 2, 3, … to the last."""
        return [
            key
            for key in self.expected.keys() | self.told.keys()
            if self.told[key] != list(range(1, self.expected[key] + 1))
        ]


def main() -> int:
    """Publish, handle, check; returns the exit status."""
    logging.basicConfig(level=logging.ERROR)  # failures are expected here, and retried
    changes = list(read(Path(sys.argv[1])))
    keys = [change.key for change, _ in changes]
    with Bus(service="example") as bus:
        bus.install()
        for left_behind in bus.status("example_changes", "example_python"):
            bus.drop_subscription(left_behind.name, force=True)
        stories = [
            Story(bus, "example_changes", "repo.#", keys),
            Story(bus, "example_python", "repo.*.py", [key for key in keys if key.endswith(".py")]),
        ]
        begun = time.monotonic()
        with bus.running():
            for start in range(0, len(changes), BATCH):
                bus.publish_many([outgoing for _, outgoing in changes[start : start + BATCH]])
            print(f"published {len(changes)} changes in {time.monotonic() - begun:.1f} s")
            idle = bus.wait_idle(120)
        print(f"handled in {time.monotonic() - begun:.1f} s" if idle else "not handled in 120 s")
        for story in stories:
            bus.drop_subscription(story.name, force=True)
    for story in stories:
        handled = sum(map(len, story.told.values()))
        print(
            f"{story.name}: {handled} of {story.expected.total()} changes of "
            f"{len(story.expected)} files, {story.failures} failures, "
            f"{len(story.wrong())} files incomplete or out of order"
        )
    return 1 if any(story.wrong() for story in stories) else 0


if __name__ == "__main__":
    sys.exit(main())
