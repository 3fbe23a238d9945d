-- name: start
select pgbus.start_tail(%s, %s)

-- name: read
select msg_id, enqueued_at, message, headers from pgbus.read_tail(%s, %s)

-- name: stop
select pgbus.stop_tail(%s)

-- name: sweep
select pgbus.sweep_tails()
