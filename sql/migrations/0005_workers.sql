-- Workers: their birth, heartbeats and death; and what idle ones ask for.

create function pgbus.start_worker(
    p_id bigint, p_service text, p_host text, p_pid integer, p_lease interval,
    p_subscriptions integer[], p_patterns jsonb, p_types jsonb, p_any boolean[]
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    perform pgbus.require_subscriptions(p_subscriptions);
    -- The caller binds next, which locks these: two that start at once wait here, in one order.
    perform from pgbus.subscription s where s.id = any (p_subscriptions) order by s.id for update;
    insert into pgbus.worker (id, service, host, pid, lease, expires_at)
    values (p_id, p_service, p_host, p_pid, p_lease, clock_timestamp() + p_lease);
    insert into pgbus.worker_subscription (worker, subscription, patterns, types, any_type)
    select p_id, x.subscription,
        array(select jsonb_array_elements_text(p_patterns -> (x.n - 1)::integer)),
        array(select jsonb_array_elements_text(p_types -> (x.n - 1)::integer)), x.any_type
    from unnest(p_subscriptions, p_any) with ordinality as x(subscription, any_type, n);
end
$function$;

-- Zero rows mean that the worker was declared dead: every lease of it is lost.
create function pgbus.heartbeat(p_worker bigint) returns boolean
language sql set search_path = pg_catalog, pg_temp
begin atomic
    select pgbus.require_worker(p_worker);
    update pgbus.worker set expires_at = clock_timestamp() + lease
    where id = p_worker and dead_at is null
    returning true;
end;

-- A worker that stops gives back what it holds, and is gone.
create function pgbus.stop_worker(p_worker bigint) returns void
language sql set search_path = pg_catalog, pg_temp
begin atomic
    select pgbus.require_worker(p_worker);
    delete from pgbus.lease where worker = p_worker;
    -- Others that found nothing free would not look again so soon; and before this it has let go of
    -- what it had not begun, of which nobody hears.
    select pg_notify('pgbus_' || s.name, '')
    from pgbus.worker_subscription w join pgbus.subscription s on s.id = w.subscription
    where w.worker = p_worker;
    delete from pgbus.worker where id = p_worker;
end;

-- Let go of every lane of a worker, its events becoming suspects; returns how many lanes.
create function pgbus.bury(p_worker bigint) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    name text;
    freed integer;
    lanes integer := 0;
begin
    for name in
        select s.name from pgbus.subscription s
        where s.id in (select l.subscription from pgbus.lease l where l.worker = p_worker)
        order by s.id
    loop
        execute format('select pgbus.%I($1)', 'bury_' || name) into freed using p_worker;
        perform pg_notify('pgbus_' || name, '') where freed > 0;
        lanes := lanes + freed;
    end loop;
    return lanes;
end
$function$;

-- When a worker's lease ends unless it is heard of. After an outage of the server everybody gets one
-- more lease to come back.
create function pgbus.ends_at(w pgbus.worker) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
return greatest(w.expires_at, pg_postmaster_start_time() + w.lease);

-- Declare dead whoever has been silent beyond its lease, and let go of its lanes.
--
-- A heartbeat that is executed but not yet committed holds its row's lock, so it is skipped: leases
-- are taken over from workers whose death is recorded, never because two clocks compare so.
create function pgbus.reap() returns table (service text, host text, pid integer, lanes integer)
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    dead pgbus.worker;
begin
    for dead in
        select w.* from pgbus.worker w
        where w.dead_at is null and pgbus.ends_at(w) < clock_timestamp()
        order by w.id for update skip locked
    loop
        update pgbus.worker w set dead_at = clock_timestamp() where w.id = dead.id;
        lanes := pgbus.bury(dead.id);
        service := dead.service;
        host := dead.host;
        pid := dead.pid;
        return next;
    end loop;
    -- A take may have committed just as its worker was declared dead, or had left.
    perform pgbus.bury(o.worker) from (
        select distinct l.worker from pgbus.lease l
        where not exists (select from pgbus.worker w where w.id = l.worker and w.dead_at is null)
    ) o;
    delete from pgbus.worker w where w.dead_at < clock_timestamp() - interval '1 day';
    perform pgbus.sweep_tails();
end
$function$;

-- Those that were declared dead of late.
create function pgbus.dead_workers() returns table (worker bigint, dead_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select w.id, w.dead_at from pgbus.worker w where w.dead_at is not null;
end;

-- End what is left of dead workers' sessions: what a stopped process locked in a transaction of its
-- own would stay locked for ever. It has its caller's rights: each role ends its own.
create function pgbus.end_sessions() returns bigint
language sql set search_path = pg_catalog, pg_temp
begin atomic
    select count(pg_terminate_backend(a.pid))
    from pgbus.dead_workers() d
    join pg_stat_activity a on a.application_name = 'pgbus/' || to_hex(d.worker)
    where a.usename = current_user and a.datname = current_database()
        and a.backend_start < d.dead_at;
end;

-- Forget ids beyond their window (one batch; true where there may be more). What another process is
-- about to forget is left to that.
create function pgbus.forget_published() returns boolean
language sql set search_path = pg_catalog, pg_temp
begin atomic
    with old as (
        delete from pgbus.published where id in (
            -- A volatile function in a condition keeps it from any index; a subquery runs once.
            select id from pgbus.published
            where forget_at < (select clock_timestamp())
            limit 5000 for update skip locked)
        returning 1
    )
    select count(*) = 5000 from old;
end;

-- Move the events whose time has come into their queues, oldest first; returns how many.
-- One process at a time: two would overtake each other within a key.
create function pgbus.promote(p_limit integer) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $function$
declare
    queue text;
    moment timestamptz := clock_timestamp();
    due bigint[];
begin
    if not exists (select from pgbus.scheduled where due_at <= moment)
        or not pg_try_advisory_xact_lock(1885823605, 0)
    then
        return 0;
    end if;
    due := array(
        select id from pgbus.scheduled where due_at <= moment
        order by due_at, id limit p_limit);
    for queue in
        select q.name from pgbus.scheduled s cross join unnest(s.queues) as q(name)
        left join pgbus.subscription t on t.name = q.name
        where s.id = any (due) group by q.name, t.id order by t.id, q.name
    loop
        if starts_with(queue, 'pgbus_tail_') then
            perform pgbus.feed_tail(queue, array_agg(s.body::text order by s.due_at, s.id),
                array_agg(s.headers::text order by s.due_at, s.id))
            from pgbus.scheduled s where s.id = any (due) and queue = any (s.queues);
        elsif to_regclass(format('pgmq.%I', 'q_' || lower(queue))) is not null then
            execute format(
                'insert into pgmq.%I (vt, message, headers) '
                'select clock_timestamp(), s.body, s.headers from pgbus.scheduled s '
                'where s.id = any ($1) and $2 = any (s.queues) order by s.due_at, s.id',
                'q_' || lower(queue)) using due, queue;
        end if;
    end loop;
    delete from pgbus.scheduled where id = any (due);
    return cardinality(due);
end
$function$;

-- What an idle process asks, every other second (once a second behind a pooler) or when a timer
-- rings: promotes what is due, goes to sleep on some (see pgbus.wake_on_insert), and then looks once
-- more.
create function pgbus.poll(p_subscriptions integer[], p_sleepy integer[])
-- ready: there may be something to take; next_due: seconds until the next event becomes visible;
-- asleep: a publisher will wake us. The row without a subscription speaks of scheduled events: ready
-- says that some were moved to their queues, of which nobody notifies the one who did it.
returns table (subscription integer, ready boolean, next_due double precision, asleep boolean)
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $function$
#variable_conflict use_column
declare
    s record;
    held boolean[];
    moved boolean;
begin
    perform pgbus.require_subscriptions(p_subscriptions);
    held := array(
        select case when x.id = any (p_sleepy) then pg_try_advisory_lock(1885823605, x.id) end
        from unnest(p_subscriptions) as x(id));
    moved := pgbus.promote(1000) > 0;
    for s in
        select t.id, t.name, x.n from unnest(p_subscriptions) with ordinality as x(id, n)
        join pgbus.subscription t on t.id = x.id
    loop
        subscription := s.id;
        asleep := coalesce(held[s.n], false);
        execute format(
            'select exists (select from pgmq.%1$I where vt <= $1), '
            -- (Not min(vt): where few are believed to wait, that reads all of them.)
            'extract(epoch from (select nullif(vt, ''infinity'') from pgmq.%1$I where vt > $1 '
            'order by vt limit 1) - $1)::double precision',
            'q_' || s.name) into ready, next_due using clock_timestamp();
        return next;
    end loop;
    subscription := null;
    ready := moved;
    asleep := null;
    select extract(epoch from min(w.due_at) - clock_timestamp())::double precision into next_due
    from pgbus.scheduled w;
    return next;
end
$function$;

-- Whether a live worker of the subscription, other than the caller, knows the event type. That of an
-- event without a version is 'topic@': only the worker itself can tell what it takes that for.
create function pgbus.known_elsewhere(p_subscription integer, p_worker bigint, p_type text)
returns boolean
language sql set search_path = pg_catalog, pg_temp
begin atomic
    select pgbus.require_subscriptions(array[p_subscription]);
    select exists (
        select from pgbus.worker_subscription d join pgbus.worker w on w.id = d.worker
        where d.subscription = p_subscription and w.id <> p_worker and w.dead_at is null
            and (d.any_type or p_type = any (d.types)));
end;
