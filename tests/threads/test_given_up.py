"""What a client has given up waiting for."""

import os
import socket

import psycopg
import pytest

from pgbus.threads import pooling
from tests.waiting import eventually

WAITS = "select cardinality(pg_blocking_pids(%s)) > 0"
LIVES = "select exists (select from pg_stat_activity where pid = %s)"


def test_a_statement_that_waits_for_a_lock_ends_with_its_client(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executed when the lock is free, much later, a take would lease what nobody knows of."""
    monkeypatch.setattr(pooling, "LOOK", 0.1)
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
        holder.execute("select pg_advisory_xact_lock(1)")
        client = psycopg.connect(dsn, autocommit=True)
        pooling.configure(client)
        pid = client.info.backend_pid
        client.pgconn.send_query(b"select pg_advisory_lock(1)")
        eventually(lambda: watcher.execute(WAITS, [pid]).fetchone() == (True,))
        with socket.socket(fileno=os.dup(client.fileno())) as way:
            way.shutdown(socket.SHUT_RDWR)
        eventually(lambda: watcher.execute(LIVES, [pid]).fetchone() == (False,))
        client.close()
