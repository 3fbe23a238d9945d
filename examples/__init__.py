"""Programs that show pgbus at work; run them from the project's folder, ``python -m examples.…``.

Each uses the PostgreSQL of ``$PGBUS_DSN``, or else the embedded one.
"""
