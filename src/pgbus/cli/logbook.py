"""What ``pgbus run`` logs, and how: lines on stderr, with the delivery that they speak of."""

import enum
import logging

from pgbus.cli.printer import clean

_EXTRA = ("subscription", "topic", "key", "attempt", "event_id")


class Level(enum.StrEnum):
    """How much is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class DeliveryFormatter(logging.Formatter):
    """Adds the delivery's ``extra`` to a record's line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record's first line."""
        known = ((name, getattr(record, name, None)) for name in _EXTRA)
        told = " ".join(f"{name}={clean(str(value))}" for name, value in known if value is not None)
        line = super().formatMessage(record)
        return f"{line} [{told}]" if told else line


def log_to_stderr(level: Level) -> None:
    """Set up the root logger."""
    handler = logging.StreamHandler()
    handler.setFormatter(DeliveryFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
