"""What is told of exceptions, however little they say themselves."""

import logging

import pytest

from pgbus.core.account import exc_info, text_of, trace_of


class Mute(Exception):
    def __str__(self) -> str:
        return str(self.args[0])


class Quitting(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Noted(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise Mute


class Undecided(Exception):
    def __bool__(self) -> bool:
        raise Mute


class Empty(Exception):
    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "no"),
        (ValueError(), ""),
        (Mute("said"), "said"),
        (Mute(), "Mute"),
        (Quitting(), "Quitting"),
    ],
)
def test_the_text(error: Exception, text: str) -> None:
    assert text_of(error) == text


@pytest.mark.parametrize("error", [ValueError("no"), Mute(), Quitting(), Noted(), Undecided()])
def test_the_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        raise error
    assert type(error).__name__ in trace_of(caught.value)


@pytest.mark.parametrize("error", [Mute(), Quitting(), Empty()])
def test_the_log_has_its_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pgbus").error("failed", exc_info=exc_info(error))
    [record] = caplog.records
    assert record.exc_info == (type(error), error, None)
    assert type(error).__name__ in caplog.text
