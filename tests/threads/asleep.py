"""Whether fetchers are asleep: it shows in the locks that they hold."""

import psycopg


def sleepers(dsn: str) -> int:
    """How many subscriptions' fetchers wait to be woken."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and granted "
            "and classid = 1885823605 and mode = 'ExclusiveLock'"
        ).fetchone()
    assert row is not None
    return int(row[0])
