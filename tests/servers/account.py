"""Running PostgreSQL as somebody else than root, which it refuses to run as.

An ordinary user runs it as is. Root has two ways:

1. A user namespace in which root appears as ``nobody``: the processes still own root's files, so
   nothing changes hands and a folder with mode 0700 stays closed to everybody else.
2. Where namespaces are forbidden (Docker's default seccomp profile): the account ``nobody``, which
   then must own the cluster's folder, and must be able to read the programs. A checkout below
   ``/root`` it cannot; the programs are then copied beside the cluster.
"""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.server import NoServerError

NAMESPACE = ("unshare", "--user", "--map-user=65534")


@dataclass(frozen=True)
class Account:
    """How to start a program of PostgreSQL, and from which folder."""

    bin_dir: Path
    prefix: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)  # of subprocess.Popen
    owner: tuple[int, int] | None = None

    def command(self, program: str, *arguments: str) -> list[str]:
        return [*self.prefix, str(self.bin_dir / program), *arguments]

    def give(self, folder: Path) -> None:
        """Hand a folder of ours to whoever will run the server in it."""
        if self.owner is not None:
            os.chown(folder, *self.owner)

    def works(self) -> bool:
        """Whether a program of PostgreSQL runs at all this way."""
        try:
            command = self.command("postgres", "--version")
            probe = subprocess.run(command, capture_output=True, check=False, **self.options)
        except OSError:
            return False
        return probe.returncode == 0


def account_for(bin_dir: Path, folder: Path) -> Account:
    """Choose the way for this process; ``folder`` may receive a copy of the programs."""
    if os.geteuid() != 0:
        return Account(bin_dir)
    namespaced = Account(bin_dir, prefix=NAMESPACE)
    return namespaced if namespaced.works() else nobody(bin_dir, folder)


def nobody(bin_dir: Path, folder: Path) -> Account:
    """Run as the account ``nobody``. (initdb wants an account with a name, so no made-up uid.)"""
    entry = pwd.getpwnam("nobody")
    owner = (entry.pw_uid, entry.pw_gid)
    options = {"user": owner[0], "group": owner[1], "extra_groups": []}
    account = Account(bin_dir, options=options, owner=owner)
    if account.works():
        return account
    account.give(folder)
    copied = Account(copy_of_programs(bin_dir, folder), options=options, owner=owner)
    if not copied.works():
        raise NoServerError(f"running as root, and neither unshare nor nobody can run {bin_dir}")
    return copied


def copy_of_programs(bin_dir: Path, folder: Path) -> Path:
    """Copy an installation, and the wheel's libraries that its programs look for beside it."""
    installation = bin_dir.parent
    package = installation.parent
    copy = folder / "programs" / package.name / installation.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(installation / part, copy / part, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "programs" / libraries.name)
    return copy / bin_dir.name
