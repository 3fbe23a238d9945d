-- name: start
select pgbus.start_worker(
    %s::bigint, %s, %s, %s, make_interval(secs => %s), %s::integer[], %s::jsonb, %s::jsonb, %s::boolean[]
)

-- name: heartbeat
select coalesce(pgbus.heartbeat(%s), false)

-- name: stop
select pgbus.stop_worker(%s)

-- name: reap
select service, host, pid, lanes from pgbus.reap()

-- name: end_sessions
select pgbus.end_sessions()

-- name: forget
select pgbus.forget(%s, %s::bigint[])

-- name: forget_published
select pgbus.forget_published()

-- name: oldest_transaction
-- Of those that keep rows of handled events from being removed, as far as we may see them.
select a.application_name, a.pid, a.xact_start,
    extract(epoch from clock_timestamp() - a.xact_start)::double precision
from pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid()
    and (a.backend_xmin is not null or a.backend_xid is not null)
    and a.xact_start < clock_timestamp() - make_interval(secs => %s)
order by a.xact_start limit 1

-- name: known_elsewhere
select pgbus.known_elsewhere(%s, %s, %s)
