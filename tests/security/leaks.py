"""Where a secret could come to light: logs, errors, and the server's own log."""

import logging
import traceback
from typing import Any

import psycopg

from tests.servers import PostgresInstance, Server

_DIAGNOSTICS = [name for name in dir(psycopg.errors.Diagnostic) if not name.startswith("_")]


class Leaks:
    """Collects what was said, and tells who said the secret."""

    def __init__(self, server: Server, secret: str) -> None:
        self.secret = secret
        self._said: list[tuple[str, str]] = []
        self._server_log = server.log_file if isinstance(server, PostgresInstance) else None
        self._log_begins = self._server_log.stat().st_size if self._server_log else 0

    def say(self, where: str, text: object) -> None:
        self._said.append((where, str(text)))

    def error(self, error: BaseException) -> None:
        """Note all that an error says, and those that caused it."""
        self.say("traceback", "".join(traceback.format_exception(error)))
        cause: BaseException | None = error
        while cause is not None:
            self.say(f"error {type(cause).__name__}", f"{cause} {cause!r} {cause.args!r}")
            self.say("notes", getattr(cause, "__notes__", ""))
            if isinstance(cause, psycopg.Error):
                said = [getattr(cause.diag, name) for name in _DIAGNOSTICS]
                self.say("diagnostics", said)
            cause = cause.__cause__

    def records(self, records: list[logging.LogRecord]) -> None:
        """Note log records, with their arguments and what they carry beside."""
        formatter = logging.Formatter("%(name)s %(message)s")
        for record in records:
            self.say(f"log {record.name}", formatter.format(record))
            beside: dict[str, Any] = {**record.__dict__, "exc_info": None, "exc_text": None}
            self.say(f"log record {record.name}", beside)
            if record.exc_info is not None and record.exc_info[1] is not None:
                self.error(record.exc_info[1])

    def server_log(self) -> str:
        """Return what the server wrote to its log since."""
        if self._server_log is None:
            return ""
        with self._server_log.open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode(errors="replace")

    def found(self) -> list[tuple[str, str]]:
        said = [*self._said, *(("server", line) for line in self.server_log().split("\n"))]
        return [(where, text[:2000]) for where, text in said if self.secret in text]
