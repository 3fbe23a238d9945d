-- name: exists
select pgbus.has_subscription(%s)

-- name: page
select msg_id, enqueued_at, message, headers from pgbus.dead_letters(%s, %s, %s)

-- name: redrive
select pgbus.redrive(%s, %s::text[], %s::bigint)

-- name: drop
select pgbus.drop_dead_letters(%s, %s::text[])
