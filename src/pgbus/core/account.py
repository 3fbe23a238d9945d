"""What is told of an exception: one of a user's may raise another when asked for its text."""

import traceback
from types import TracebackType

Told = tuple[type[BaseException], BaseException, TracebackType | None]
"""What ``logging`` calls ``exc_info``."""


def text_of(error: BaseException) -> str:
    """Return the text of an exception; the name of its type where it has none to give."""
    try:
        return str(error)
    except BaseException:  # `self.args[0]` without arguments; even SystemExit, which ends a thread
        return type(error).__name__


def trace_of(error: BaseException) -> str:
    """Return the traceback of an exception; the name of its type where none can be written."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # it guards against `__str__`, and not against a property `__notes__`
        return type(error).__name__


def exc_info(error: BaseException) -> Told:
    """Return what to give ``logging``, which would ask a bare exception whether it is true.

    One with a ``__len__`` of 0 would be left out, and ``__bool__`` may raise.
    """
    return type(error), error, error.__traceback__
