-- Counting, dead letters and `pgbus tail`.

-- The counts of one subscription's queue. A scan: for people and dashboards, not for the hot path.
create function pgbus.counts(p_subscription integer)
returns table (
    ready bigint, in_flight bigint, delayed bigint, parked bigint, dead_letters bigint,
    oldest_age interval, retrying bigint
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $function$
declare
    s pgbus.subscription;
begin
    select * into strict s from pgbus.subscription where id = p_subscription;
    return query execute pgbus.filled($query$
        select count(*) filter (where c.state = 'ready'),
            count(*) filter (where c.state = 'in_flight'),
            count(*) filter (where c.state in ('delayed', 'retrying'))
                + (select count(*) from pgbus.scheduled w where :name = any (w.queues)),
            count(*) filter (where c.state = 'parked'),
            (select count(*) from pgmq.:dead),
            clock_timestamp() - min(c.enqueued_at) filter (where c.state = 'ready'),
            count(*) filter (where c.state = 'retrying')
        from (
            select r.enqueued_at, case
                when r.position <= r.quantity then 'in_flight'
                when :parked(r.lane) then 'parked'
                when r.vt > clock_timestamp() and r.tried then 'retrying'
                when r.vt > clock_timestamp() then 'delayed'
                else 'ready' end as state
            from (
                select m.enqueued_at, m.vt, m.lane, l.quantity,
                    row_number() over (partition by m.lane order by m.msg_id) as position,
                    a.msg_id is not null or m.read_ct > 0 as tried
                from (select m.*, :lane as lane from pgmq.:queue m) m
                left join pgbus.lease l on l.subscription = :id and l.lane = m.lane
                left join pgbus.attempt a on a.subscription = :id and a.msg_id = m.msg_id
            ) r
        ) c
        $query$, s);
end
$function$;

create function pgbus.status(p_names text[])
returns table (
    name text, ready bigint, in_flight bigint, delayed bigint, parked bigint, dead_letters bigint,
    oldest_age interval, workers bigint
)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select s.name, c.ready, c.in_flight, c.delayed, c.parked, c.dead_letters, c.oldest_age, (
        select count(*) from pgbus.worker_subscription d join pgbus.worker w on w.id = d.worker
        where d.subscription = s.id and w.dead_at is null and pgbus.ends_at(w) > clock_timestamp())
    from pgbus.subscription s cross join lateral pgbus.counts(s.id) c
    where p_names is null or s.name = any (p_names)
    order by s.name;
end;

-- Nothing visible, leased or waiting for a retry; parked and delayed events may stay.
create function pgbus.idle(p_subscriptions integer[]) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select pgbus.require_subscriptions(p_subscriptions);
    select not exists (
        select from unnest(p_subscriptions) as x(id) cross join lateral pgbus.counts(x.id) c
        where c.ready + c.in_flight + c.retrying > 0);
end;

create function pgbus.has_subscription(p_name text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (select from pgbus.subscription s where s.name = p_name);

-- Other queues than those of subscriptions are none of an operator's business.
create function pgbus.require_name(p_name text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $function$
begin
    if not pgbus.has_subscription(p_name) then
        raise exception 'there is no such subscription' using errcode = 'undefined_object';
    end if;
end
$function$;

create function pgbus.dead_letters(p_name text, p_after bigint, p_limit integer)
returns table (msg_id bigint, enqueued_at timestamptz, message text, headers text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $function$
begin
    perform pgbus.require_name(p_name);
    return query execute format(
        'select d.msg_id, d.enqueued_at, pgbus.readable(d.message), pgbus.readable(d.headers) '
        'from pgmq.%I d where d.msg_id > $1 order by d.msg_id limit $2', 'q_' || p_name || '_dlq')
    using p_after, p_limit;
end
$function$;

-- Put dead letters back at their old place within their key; returns how many.
-- `ids` are event ids; null means all. What was never dead-lettered by pgbus is left alone.
create function pgbus.redrive(p_name text, p_ids text[], p_limit bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    moved bigint;
begin
    perform pgbus.require_name(p_name);
    execute format(
        'with chosen as ('
        ' select d.msg_id from pgmq.%2$I d'
        ' where d.headers -> ''pgbus-dead'' ->> ''msg_id'' ~ ''^-?[0-9]{1,18}$'''
        ' and ($1 is null or d.headers ->> ''id'' = any ($1))'
        ' order by (d.headers -> ''pgbus-dead'' ->> ''msg_id'')::bigint limit $2 for update skip locked'
        '), gone as ('
        ' delete from pgmq.%2$I d using chosen c where d.msg_id = c.msg_id'
        ' returning d.message, d.enqueued_at, d.headers -> ''pgbus-dead'' as dead'
        ') insert into pgmq.%1$I (msg_id, vt, enqueued_at, message, headers) overriding system value'
        ' select (g.dead ->> ''msg_id'')::bigint, clock_timestamp(), g.enqueued_at, g.message,'
        ' nullif(g.dead -> ''headers'', ''null'') from gone g',
        'q_' || p_name, 'q_' || p_name || '_dlq') using p_ids, p_limit;
    get diagnostics moved = row_count;
    return moved;
end
$function$;

create function pgbus.drop_dead_letters(p_name text, p_ids text[]) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    dropped bigint;
begin
    perform pgbus.require_name(p_name);
    execute format('delete from pgmq.%I d where $1 is null or d.headers ->> ''id'' = any ($1)',
        'q_' || p_name || '_dlq') using p_ids;
    get diagnostics dropped = row_count;
    -- Later events of their keys may have been parked behind them.
    perform pg_notify('pgbus_' || p_name, '');
    return dropped;
end
$function$;

-- Bind a temporary queue to the patterns (already expanded), for as long as this session lives.
create function pgbus.start_tail(p_id integer, p_patterns text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    queue text := 'pgbus_tail_' || lpad(to_hex(p_id), 8, '0');
begin
    -- Before anything can be seen: who sees the tail must find its lock held.
    if not pg_try_advisory_lock(1885823604, p_id) then
        raise exception 'tail % runs already', p_id using errcode = 'duplicate_object';
    end if;
    -- A live tail asks several times a second. A stopped one must not fill the disk.
    perform set_config('idle_session_timeout', '2min', false);
    insert into pgbus.tail (id) values (p_id);
    perform pgmq.create_unlogged(queue);
    -- Publishers of other roles and other clients must not fail because of it.
    execute format('grant insert, select (msg_id) on pgmq.%I to public', 'q_' || queue);
    insert into pgmq.topic_bindings (pattern, queue_name)
    select distinct x.pattern, queue from unnest(p_patterns) as x(pattern);
end
$function$;

-- Take what a tail has not shown yet, oldest first.
create function pgbus.read_tail(p_id integer, p_limit integer)
returns table (msg_id bigint, enqueued_at timestamptz, message text, headers text)
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    return query execute format(
        'with gone as (delete from pgmq.%1$I d where d.msg_id in ('
        'select m.msg_id from pgmq.%1$I m order by m.msg_id limit $1) returning d.*) '
        'select g.msg_id, g.enqueued_at, pgbus.readable(g.message), pgbus.readable(g.headers) '
        'from gone g order by g.msg_id',
        'q_pgbus_tail_' || lpad(to_hex(p_id), 8, '0')) using p_limit;
end
$function$;

-- Let go of this session's tail: nothing is sent to it any more, and sweep_tails may drop it.
create function pgbus.stop_tail(p_id integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    delete from pgmq.topic_bindings
    where queue_name = 'pgbus_tail_' || lpad(to_hex(p_id), 8, '0');
    perform pg_advisory_unlock(1885823604, p_id);
end
$function$;

-- Drop the queues of tails whose session is gone, however it went; returns those it had to leave.
-- It waits for nobody, and whoever waits for it waits for a moment: first nothing more is sent to
-- the queue; while transactions that wrote to it are open, dropping it is left to the next round.
create function pgbus.sweep_tails() returns setof integer
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $function$
declare
    dead integer;
    queue text;
begin
    for dead in select t.id from pgbus.tail t order by t.id loop
        continue when not pg_try_advisory_xact_lock(1885823604, dead);
        queue := 'pgbus_tail_' || lpad(to_hex(dead), 8, '0');
        begin
            delete from pgmq.topic_bindings b where b.queue_name = queue;
        exception when lock_not_available or insufficient_privilege then
            return next dead;
            continue;
        end;
        begin
            if to_regclass(format('pgmq.%I', 'q_' || queue)) is not null then
                execute format('lock table pgmq.%I in access exclusive mode nowait', 'q_' || queue);
                perform pgmq.drop_queue(queue);
            end if;
            delete from pgbus.tail t where t.id = dead;
        exception when lock_not_available or insufficient_privilege then
            return next dead;
        end;
    end loop;
end
$function$;
