"""A streaming standby of a cluster, which a test may promote."""

from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from tests.servers.account import Account
from tests.servers.instance import PostgresInstance

NAME = "standby"
"""What the primary knows it by."""


class Standby(PostgresInstance):
    """A copy of a running primary that follows it until it is promoted."""

    def __init__(self, primary: PostgresInstance) -> None:
        super().__init__(primary.bin_dir)
        self._primary = primary

    def _fill(self, account: Account, folder: Path, data: Path) -> None:
        self._run(
            account,
            "pg_basebackup",
            f"--pgdata={data}",
            f"--dbname={make_conninfo(self._primary.dsn(), application_name=NAME)}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )

    def promote(self) -> None:
        """Become a primary; returns once it takes writes."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute("select pg_promote()")
