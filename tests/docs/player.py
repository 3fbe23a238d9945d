"""Plays a guide: runs what its fences say, in order, and compares what it says they print.

::

    python -m tests.docs.player GUIDE

===================  ==============================================================================
fence                what becomes of it
===================  ==============================================================================
``python``           runs; all of a guide are one program
``python``, ``# x``  with a file's name as its first line, it is saved under that name instead
``output``           what the block before it has printed
``console``          ``$ command`` runs and ends with 0; what follows it is what it prints. One that
                     is followed by ``^C`` runs until it has printed that, and is interrupted
others               are for the reader
===================  ==============================================================================

In what is compared, ``...`` stands for anything. The player's own folder is the current one.
"""

import contextlib
import doctest
import io
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120
_PIPE, _STDOUT = subprocess.PIPE, subprocess.STDOUT
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w.]+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A fence of a guide, and the line on which its text begins."""

    kind: str
    text: str
    line: int


def blocks(guide: str) -> Iterator[Block]:
    """Yield the fences of a guide."""
    for match in _FENCE.finditer(guide):
        yield Block(match[1], match[2], guide.count("\n", 0, match.start(2)) + 1)


def play(path: Path) -> None:
    """Run a guide to its end; what is wrong with it is raised."""
    program = types.ModuleType("guide")
    sys.modules["guide"] = program
    printed = ""
    for block in blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}, line {block.line}"
        name = _FILE.match(block.text)
        if block.kind == "python" and name is not None:
            Path(name[1]).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            printed = _run(program, block, path)
        elif block.kind == "output":
            _compare(block.text, printed, where)
        elif block.kind == "console":
            for command, expected in _commands(block.text):
                _command(command, expected, where)


def _run(program: types.ModuleType, block: Block, path: Path) -> str:
    # The empty lines in front make tracebacks name the guide's own lines.
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        exec(code, program.__dict__)
    return stdout.getvalue()


def _commands(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.replace("\\\n", "").split("\n", 1)
        yield lines[0], lines[1] if len(lines) > 1 else ""


def _command(command: str, expected: str, where: str) -> None:
    expected, interrupted, _ = expected.partition("^C\n")
    if interrupted:
        code, printed = _interrupt(command, expected)
    else:
        done = subprocess.run(command, shell=True, text=True, stdout=_PIPE, stderr=_STDOUT)
        code, printed = done.returncode, done.stdout
    if code:
        raise AssertionError(f"{where}: $ {command}\nended with {code}:\n{printed}")
    if expected:
        _compare(expected, printed, f"{where}: $ {command}")


def _interrupt(command: str, expected: str) -> tuple[int, str]:
    printed = ""
    with subprocess.Popen(
        f"exec {command}", shell=True, text=True, stdout=_PIPE, stderr=_STDOUT
    ) as process:
        assert process.stdout is not None
        impatient = threading.Timer(PATIENCE, process.kill)
        impatient.start()
        for line in process.stdout:
            printed += line
            if _fits(expected, printed):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        impatient.cancel()
    return process.returncode, printed if process.returncode == 0 else printed + rest


def _fits(expected: str, printed: str) -> bool:
    want, got = expected.rstrip() + "\n", _bare(printed)
    return doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS)


def _bare(printed: str) -> str:
    return "\n".join(line.rstrip() for line in printed.rstrip().split("\n")) + "\n"


def _compare(expected: str, printed: str, where: str) -> None:
    if not _fits(expected, printed):
        raise AssertionError(f"{where}\nexpected:\n{expected}\nprinted:\n{_bare(printed)}")


if __name__ == "__main__":
    play(Path(sys.argv[1]))
