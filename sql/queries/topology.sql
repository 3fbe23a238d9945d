-- name: declare
select pgbus.declare(%s, %s, %s)

-- name: bind
select unnest(pgbus.bind(%s, %s, %s))

-- name: bindings
select pattern, queue, ours from pgbus.bindings()

-- name: drop
select pgbus.drop_subscription(%s, %s)

-- name: rename
select pgbus.rename_subscription(%s, %s)

-- name: status
select name, ready, in_flight, delayed, parked, dead_letters, oldest_age, workers
from pgbus.status(%s::text[])

-- name: idle
select pgbus.idle(%s::integer[])
