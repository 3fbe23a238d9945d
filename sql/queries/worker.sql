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

-- name: known_elsewhere
select pgbus.known_elsewhere(%s, %s, %s)
