"""A process that uses an embedded server and does what it is told, a JSON line at a time.

Run as a script: ``user.py HOME``. It answers each request with one line, ``{"ok": …}`` or
``{"error": the exception's name, "message": …}``.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path

import psycopg

from pgbus.embedded import EmbeddedServer
from pgbus.embedded.lock import FileLock


class Commands:
    def __init__(self, home: Path) -> None:
        self.server = EmbeddedServer(home)

    def dsn(self) -> str:
        return self.server.dsn()

    def leave(self) -> None:
        self.server.leave()

    def execute(self, query: str) -> list[list[object]]:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return [list(row) for row in cursor.fetchall()] if cursor.description else []

    def lock(self, path: str) -> None:
        self.locked = FileLock(Path(path))
        assert self.locked.try_take()

    def close_lock(self) -> None:
        self.locked.close()

    def fork(self) -> int:
        """Make a child that sits there until it is killed."""
        child = os.fork()
        if child == 0:
            signal.pause()
        return child

    def fork_and_leave(self) -> None:
        """Let a child leave the server that its parent joined."""
        child = os.fork()
        if child == 0:
            self.server.leave()
            os._exit(0)
        os.waitpid(child, 0)


def main() -> None:
    logging.basicConfig(format="LOGGED %(name)s %(levelname)s %(message)s")
    commands = Commands(Path(sys.argv[1]))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"ok": getattr(commands, name)(*arguments)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
