"""What became of some events: those of certain keys, each with everything there is about it.

The events of one key are judged together and apart from all others, so an hour of them is judged in
portions that fit into memory: see :func:`accounts`.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from zlib import crc32

import msgspec

from tests.torture.audit import Effect
from tests.torture.history import Frame, History, Item, Letter, Pair, Published, Settled
from tests.torture.records import Begin, End, Lines, family


class Account:
    """See the module; filled by ``add``, then only read."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.published: dict[str, Published] = {}
        self.begins: dict[Pair, list[int]] = defaultdict(list)
        """When each was delivered, in order."""
        self.returned: dict[tuple[str, str, int], list[int]] = defaultdict(list)
        """When which (subscription, uid) returned from its handler in which process."""
        self.settled: dict[Pair, list[Settled]] = defaultdict(list)
        """How often each was deleted from its queue, in order."""
        self.lettered: dict[Pair, list[Letter]] = defaultdict(list)
        self.redriven: dict[Pair, list[Letter]] = defaultdict(list)
        self.dropped: Counter[Pair] = Counter()
        self.effective: dict[Pair, list[Effect]] = defaultdict(list)
        """What each committed through its handler's connection."""
        self.buried: Counter[Pair] = Counter()
        """How many dead letters of each there were in the end."""
        self.waiting: Counter[Pair] = Counter()
        """How often each was still in its queue at the end."""

    def add(self, item: Item) -> None:
        match item:
            case Published():
                self.published[item.message.uid] = item
            case Begin():
                self.begins[item.subscription, item.uid].append(item.at)
            case End():
                self.returned[item.subscription, item.uid, item.pid].append(item.at)
            case Settled():
                self.settled[item.subscription, item.uid].append(item)
            case Effect():
                self.effective[item.subscription, item.uid].append(item)
            case Letter():
                self._add_letter(item, (item.subscription, item.uid))

    def _add_letter(self, letter: Letter, pair: Pair) -> None:
        match letter.kind:
            case "letter":
                self.lettered[pair].append(letter)
            case "redriven":
                self.redriven[pair].append(letter)
            case "dropped":
                self.dropped[pair] += 1

    def close(self) -> None:
        """Put in order what came in any."""
        for moments in self.begins.values():
            moments.sort()

    def times_done(self, pair: Pair) -> int:
        """How often it was acknowledged, rather than given up."""
        return len(self.settled.get(pair, ())) - len(self.lettered.get(pair, ()))

    def times_given_up(self, pair: Pair) -> int:
        """How often it became a dead letter, or is one that nobody was seen to make."""
        return max(len(self.lettered.get(pair, ())), self.buried[pair])

    def times_stored(self, pair: Pair) -> int:
        """How often it came into its queue, but for redrives."""
        came = len(self.settled.get(pair, ())) + self.waiting[pair]
        return came - len(self.redriven.get(pair, ()))


def accounts(history: History, portions: int) -> Iterator[Account]:
    """Tell every event of a history, in so many portions."""
    if portions == 1:
        yield _account(history, history.items(), 0, 1)
        return
    with tempfile.TemporaryDirectory(prefix="pgbus-torture-") as folder:
        parts = [Path(folder) / str(number) for number in range(portions)]
        _share_out(history, parts)
        for number, part in enumerate(parts):
            yield _account(history, Lines[Item](part, Item), number, portions)
            part.unlink()


def _account(history: History, items: "Iterator[Item] | Lines[Item]", n: int, of: int) -> Account:
    account = Account(history.frame)
    for item in items:
        account.add(item)
    for stored, counts in ((history.letters, account.buried), (history.left, account.waiting)):
        counts.update((one.subscription, one.uid) for one in stored if _portion(one.uid, of) == n)
    account.close()
    return account


def _share_out(history: History, parts: list[Path]) -> None:
    encode = msgspec.json.Encoder().encode
    with ExitStack() as open_files:
        files = [open_files.enter_context(part.open("wb")) for part in parts]
        for item in history.items():
            uid = item.message.uid if isinstance(item, Published) else item.uid
            files[_portion(uid, len(files))].write(encode(item) + b"\n")


def _portion(uid: str, of: int) -> int:
    return crc32(family(uid).encode()) % of
