"""What a database's schemas hold, in a form that two databases can be compared by."""

import psycopg

_SCHEMAS = "n.nspname in ('pgmq', 'pgbus')"
_QUERIES = {
    "relation": f"""
        select c.relname, c.relkind, c.relpersistence, c.reloptions
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_SCHEMAS}""",
    "column": f"""
        select c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where {_SCHEMAS} and a.attnum > 0 and not a.attisdropped""",
    "index": f"select indexdef from pg_indexes where {_SCHEMAS.replace('n.nspname', 'schemaname')}",
    "constraint": f"""
        select c.conname, c.conrelid::regclass::text, pg_get_constraintdef(c.oid)
        from pg_constraint c join pg_namespace n on n.oid = c.connamespace where {_SCHEMAS}""",
    "trigger": f"""
        select t.tgname, t.tgenabled, pg_get_triggerdef(t.oid) from pg_trigger t
        join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
        where {_SCHEMAS} and not t.tgisinternal""",
    "function": f"""
        select p.oid::regprocedure::text, pg_get_functiondef(p.oid)
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where {_SCHEMAS} and p.prokind = 'f'""",
    "right": f"""
        select n.nspname, c.relname, c.relacl::text
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_SCHEMAS}
        union all select n.nspname, null, n.nspacl::text from pg_namespace n where {_SCHEMAS}""",
}


def snapshot(dsn: str) -> dict[str, list[str]]:
    """Return every object of the schemas pgmq and pgbus, described in full, by kind."""
    with psycopg.connect(dsn) as connection:
        return {
            kind: sorted(map(repr, connection.execute(query).fetchall()))
            for kind, query in _QUERIES.items()
        }


def content(dsn: str, *tables: str) -> dict[str, list[str]]:
    """Return the rows of tables, but for what differs from one installation to the next."""
    with psycopg.connect(dsn) as connection:
        return {
            table: sorted(
                repr(row)
                for (row,) in connection.execute(
                    f"select to_jsonb(t) - '{{applied_at,generation}}'::text[] from {table} t"
                )
            )
            for table in tables
        }
