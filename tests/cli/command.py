"""Running the command line: as a process of its own, or in this one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from typer.testing import CliRunner

from pgbus.cli.app import app

COMMAND = [sys.executable, "-m", "pgbus.cli"]
PATIENCE = 120

Text = TypeVar("Text", str, bytes)


def environment(dsn: str | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process sees: no database but the one it is given."""
    chosen = {**os.environ, "PGBUS_HOME": "/nonexistent/pgbus", "COLUMNS": "100", **(more or {})}
    if dsn is not None:
        chosen["PGBUS_DSN"] = dsn
    return chosen


def pgbus(
    *arguments: str,
    dsn: str | None = None,
    cwd: Path | None = None,
    stdin: str | bytes = b"",
    command: Sequence[str] = COMMAND,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    done = subprocess.run(
        [*command, *arguments],
        env=environment(dsn),
        cwd=cwd,
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@contextmanager
def at_hand(process: subprocess.Popen[Text]) -> Iterator[subprocess.Popen[Text]]:
    """Lend a process for as long as the block runs, at most: a test that fails waits for nobody."""
    with process:
        try:
            yield process
        finally:
            process.kill()


class Result:
    """What a command in this process printed, and its exit code."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self) -> str:
        return f"<exit {self.code}>\n{self.stdout}\n-- stderr\n{self.stderr}"

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def call(dsn: str, *arguments: str, stdin: bytes | None = None) -> Result:
    """Run the command in this process, which is quicker."""
    done = CliRunner().invoke(app, list(arguments), input=stdin, env={"PGBUS_DSN": dsn})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)
