-- name: lock
select pg_advisory_xact_lock(1885823605, -1)

-- name: found
-- What the database has: pgmq's extension on offer, its version, its objects, and pgbus's table.
select
    (select count(*) > 0 from pg_available_extensions where name = 'pgmq'),
    (select extversion from pg_extension where extname = 'pgmq'),
    to_regclass('pgmq.meta') is not null,
    to_regclass('pgmq.topic_bindings') is not null
        and to_regprocedure('pgmq.bind_topic(text, text)') is not null
        and to_regprocedure('pgmq.send_batch_topic(text, jsonb[], jsonb[], timestamptz)') is not null,
    to_regclass('pgbus.migration') is not null

-- name: create_extension
create extension pgmq

-- name: create_migration
create schema if not exists pgbus;
create table if not exists pgbus.migration (
    number integer primary key,
    name text not null,
    checksum text not null,
    breaking boolean not null,
    applied_at timestamptz not null default clock_timestamp()
)

-- name: applied
select number, name, checksum, breaking from pgbus.migration order by number

-- name: record
insert into pgbus.migration (number, name, checksum, breaking) values (%s, %s, %s, %s)
