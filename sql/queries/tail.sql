-- name: sweep
-- Queues whose session is gone, also after a kill.
select t.queue from pgbus.tail t
where not exists (
    select from pg_stat_activity a where a.pid = t.backend and a.backend_start = t.backend_start)
for update skip locked

-- name: register
insert into pgbus.tail (queue, backend, backend_start)
select %s, a.pid, a.backend_start from pg_stat_activity a where a.pid = pg_backend_pid()
