"""What a run was made on: ratios travel from machine to machine, absolute figures do not."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.server import Server

ROOT = Path(__file__).resolve().parents[1]


def describe(server: Server) -> dict[str, str]:
    """Return the machine, the server and the code of a run."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "CPU": _processor(),
        "kernel": platform.release(),
        "file system": _file_system(server.folder or Path.cwd()),
        "Python": platform.python_version(),
        "psycopg": version("psycopg"),
        "pgbus": _commit(),
        **server.describe(),
    }


def summary(machine: dict[str, str]) -> str:
    """Return the machine in one line, for under a table."""
    return (
        f"{machine['date']}; {machine['cores']} cores ({machine['CPU']}), {machine['memory']}, "
        f"Linux {machine['kernel']}, {machine['file system']}; PostgreSQL {machine['PostgreSQL']}, "
        f"fsync {machine['fsync']}, synchronous_commit {machine['synchronous_commit']}; "
        f"Python {machine['Python']}, pgbus {machine['pgbus']}"
    )


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{total / 2**30:.0f} GiB"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    best = ("", "?")
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind = line.split()[:3]
        if folder.is_relative_to(place) and len(place) > len(best[0]):
            best = (place, kind)
    return best[1]


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return version("pgbus")
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return f"{version('pgbus')} {answer.stdout.strip()}".strip()
