"""One run from its server's start to the verdict."""

import shutil
import time
from pathlib import Path

from tests.torture.checker import judge
from tests.torture.report import Report
from tests.torture.stage import Stage
from tests.torture.supervisor import Plan, Supervisor


def run(plan: Plan, *, bin_dir: Path | None = None, keep: Path | None = None) -> Report:
    """Carry out a plan on a server of its own, and judge it.

    Parameters:
        bin_dir: PostgreSQL's programs; the embedded ones if left out.
        keep: where to copy the logs of all processes.
    """
    began = time.monotonic()
    with Stage(bin_dir=bin_dir, lease=plan.lease, mutant=plan.mutant) as stage:
        try:
            history = Supervisor(stage, plan).run()
        finally:
            if keep is not None:
                shutil.copytree(stage.folder, keep, dirs_exist_ok=True)
        verdict = judge(history, stage.portions)
    return Report(plan, time.monotonic() - began, verdict)
