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
);
-- What has been applied, for those who may not read the table.
create or replace function pgbus.applied()
returns table (number integer, name text, checksum text, breaking boolean)
language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select m.number, m.name, m.checksum, m.breaking from pgbus.migration m order by m.number;
end;
revoke all on function pgbus.applied() from public

-- name: applied
select number, name, checksum, breaking from pgbus.applied()

-- name: make_roles
select role from pgbus.make_roles(%s) as made(role)

-- name: keep_roles
select pgbus.keep_roles()

-- name: record
insert into pgbus.migration (number, name, checksum, breaking) values (%s, %s, %s, %s)

-- name: attend_bindings
select pgbus.attend_bindings()
