"""Publishing batch after batch, and knowing at every moment what is safely published."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from pgbus import Bus, Receipt
from pgbus.cli.lines import Line, Template
from pgbus.cli.printer import count
from pgbus.errors import ConfigurationError, PayloadError, PgbusError, StoreError


class Outbox:
    """Publishes lines; a batch is published as a whole or not at all.

    Parameters:
        report: called with the receipts of each batch.

    Attributes:
        published: how many events are committed.
        topics: how many events went to each topic.
        unrouted: how many events reached no queue.
        last_line: the number of the last line that is published.
    """

    def __init__(
        self, bus: Bus, template: Template, report: Callable[[Sequence[Receipt]], None]
    ) -> None:
        self._bus = bus
        self._template = template
        self._report = report
        self._started = time.monotonic()
        self.published = 0
        self.topics: Counter[str] = Counter()
        self.unrouted = 0
        self.last_line = 0

    @property
    def seconds(self) -> float:
        """How long it has been publishing."""
        return time.monotonic() - self._started

    def publish(self, lines: Sequence[Line]) -> None:
        """Publish a batch.

        Raises:
            PgbusError: which line was at fault, and what is published and what is not.
        """
        events = []
        for line in lines:
            try:
                events.append(self._template.event(line.text))
            except PayloadError as error:
                raise self._failure(f"line {line.number}: {error}", lines) from error
        try:
            receipts = self._bus.publish_many(events)
        except (PayloadError, ConfigurationError) as error:
            raise self._failure(_place(error, lines), lines) from error
        except StoreError as error:
            unknown = error.outcome_unknown
            raise self._failure(f"{_span(lines)}: {error}", lines, unknown=unknown) from error
        except PgbusError as error:
            raise self._failure(f"{_span(lines)}: {error}", lines) from error
        self.published += len(receipts)
        self.last_line = lines[-1].number
        self.topics.update(receipt.topic for receipt in receipts)
        self.unrouted += sum(not one.queues and not one.duplicate for one in receipts)
        self._report(receipts)

    def _failure(self, what: str, lines: Sequence[Line], *, unknown: bool = False) -> PgbusError:
        if self.published:
            done = f"{count(self.published, 'event')} up to line {self.last_line} were published"
        else:
            done = "nothing was published"
        if unknown:
            return PgbusError(f"{what} ({done} for certain)")
        rest = f", and nothing from line {lines[0].number} on" if self.published else ""
        return PgbusError(f"{what} ({done}{rest})")


def _place(error: PgbusError, lines: Sequence[Line]) -> str:
    """Say which line cannot be encoded, where the bus says which event."""
    if error.item is not None:
        return f"line {lines[error.item].number}: {error.__cause__}"
    if len(lines) == 1:
        return f"line {lines[0].number}: {error}"
    return f"{_span(lines)}: {error}"


def _span(lines: Sequence[Line]) -> str:
    return f"lines {lines[0].number} to {lines[-1].number}"
