-- name: declare
select pgbus.declare(%s, %s, %s)

-- name: bind
select unnest(pgbus.bind(%s, %s, %s))

-- name: bindings
select b.pattern, b.queue_name, m.subscription is not null
from pgmq.topic_bindings b
left join pgbus.subscription s on s.name = b.queue_name
left join pgbus.binding m on m.subscription = s.id and m.pattern = b.pattern
order by b.queue_name, b.pattern

-- name: drop
select pgbus.drop_subscription(%s, %s)

-- name: rename
select pgbus.rename_subscription(%s, %s)

-- name: status
select name, ready, in_flight, delayed, parked, dead_letters, oldest_age, workers
from pgbus.status(%s::text[])

-- name: idle
select pgbus.idle(%s::integer[])
