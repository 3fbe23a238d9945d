-- The lease protocol: a lease belongs to a key, not to a message.
--
-- A *lane* is the hash of an event's key, or the event's own id where it has none; two keys that
-- share a hash merely wait for each other. Each subscription has functions of its own, made from the
-- templates below, because static statements stay planned while a dynamic EXECUTE plans anew each
-- time (up to 1 ms). See pgbus.filled for `:queue`, `:lane` and the like.
--
-- put     stores events, see pgbus.publish; its name has the subscription's number, which outlives
--         every renaming, so that what publishers remember can always be called.
-- take    looks for free lanes, leases them and then, as a second statement with its own snapshot,
--         reads their messages. In one statement the snapshot may predate another worker's
--         acknowledgement, and events would be handled twice. It looks at lane after lane by a loose
--         index scan, which passes any number of events of one lane at once; or at the lanes of what
--         arrived together, which lies together, too (see pgbus.core.walk).
-- settle  locks the lease rows first and touches only the messages of lanes that came back.
-- acknowledge
--         is settle for one event that was handled, in the transaction of its handler.
-- bury    turns the leases of a dead worker into suspicions and lets go of them.
--
-- The planner is pinned: with statistics that lag behind it has turned both into scans of the queue.
-- `:lane between x and x` is one of the pins. Of an equality, the planner knows that the order of a
-- lane is that of msg_id; where the statistics, of a queue that had one key, say that each event is in
-- that lane, it went through all events by msg_id: the first that comes would have been it.

create table pgbus.template (
    name text primary key,
    body text not null
);

-- The text of JSON, or null where it is longer than PostgreSQL can make: 80 KB of `1e131071,` are.
create function pgbus.readable(p_json jsonb) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $function$
begin
    return p_json::text;
exception when program_limit_exceeded then
    return null;
end
$function$;

-- Whoever called the outermost function: inside of one that is SECURITY DEFINER, current_user is its
-- owner. Nobody can set a role that it is no member of.
create function pgbus.caller() returns name
language sql stable set search_path = pg_catalog, pg_temp
return case current_setting('role') when 'none' then session_user
    else current_setting('role')::name end;

-- Raise unless the caller may serve the subscriptions: that is, may call their take functions.
-- What does not exist is left to others to find out. 9 µs; 50 where it is planned anew each time.
create function pgbus.require_subscriptions(p_subscriptions integer[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off as $function$
declare
    caller name := pgbus.caller();
    refused text;
begin
    select s.name into refused
    from pgbus.subscription s
    join pg_proc p on p.proname = ('take_' || s.name)::name
        and p.pronamespace = 'pgbus'::regnamespace
    where s.id = any (p_subscriptions) and not has_function_privilege(caller, p.oid, 'execute')
    limit 1;
    if found then
        raise exception 'role % may not serve subscription %', caller, refused
            using errcode = 'insufficient_privilege', hint = format(
                'grant it %s, which ''pgbus install --roles'' makes',
                coalesce(pgbus.subscriber_role(refused), 'pgbus_subscriber_' || refused));
    end if;
end
$function$;

-- The same for all that a worker serves.
create function pgbus.require_worker(p_worker bigint) returns void
language sql stable set search_path = pg_catalog, pg_temp
return pgbus.require_subscriptions(array(
    select d.subscription from pgbus.worker_subscription d where d.worker = p_worker));

-- Raise unless this is still the transaction that was begun for a handler: a DEFERRABLE one, which
-- means nothing but for one that is SERIALIZABLE and READ ONLY, and costs no statement of its own.
create function pgbus.require_handling() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    if current_setting('transaction_deferrable') <> 'on' then
        raise exception 'the handler ended its transaction'
            using errcode = 'invalid_transaction_termination';
    end if;
end
$function$;

insert into pgbus.template (name, body) values ('put', $template$
create or replace function pgbus.:function(p_bodies text[], p_headers text[]) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    if cardinality(p_bodies) = 1 then   -- most calls, and faster so by 5 to 8 µs
        insert into pgmq.:queue (vt, message, headers)
        values (clock_timestamp(), p_bodies[1]::jsonb, p_headers[1]::jsonb);
    else
        insert into pgmq.:queue (vt, message, headers)
        select clock_timestamp(), unnest(p_bodies)::jsonb, unnest(p_headers)::jsonb;
    end if;
    return 0;
end
$function$
$template$);

insert into pgbus.template (name, body) values ('take', $template$
create or replace function pgbus.:function(
    p_worker bigint, p_token bigint,
    -- where to look for free lanes: among so many from a lane on, in the order of lanes, or among
    -- those of so many events from a msg_id on
    p_by_arrival boolean, p_from bigint, p_visits integer,
    p_lanes integer, p_quantity integer, p_bytes bigint, p_suspect boolean, p_awake boolean,
    p_careful boolean   -- some body or header cannot be made text of: null for those
)
-- One row a message, in order within its lane; a row without msg_id for a lane that turned out to
-- be empty, or that p_bytes did not reach (the caller gives it back); and a last row that sums up:
-- msg_id is the last lane or msg_id that was looked at, or null where that was the end; lane, by
-- arrival, the first msg_id of a free lane, or where nothing was free the one behind the last;
-- available whether another take won most of what seemed to be free; failures how many lanes were won,
-- deaths how many of the rows bring nothing to handle, suspect whether one of them is a suspect.
returns table (
    lane bigint, msg_id bigint, available boolean, enqueued_at timestamptz, body text, headers text,
    failures integer, deaths integer, suspect boolean
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $function$
#variable_conflict use_column
declare
    won bigint[];
    suspects bigint[];
    seen bigint;
    live bigint;
    contested boolean;
    place bigint;
    reached bigint := 0;    -- the place of the last lane that has a row
    message jsonb;
    header jsonb;
    bytes bigint := 0;
    vain integer := 0;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'pgbus takes leases in READ COMMITTED only'
            using errcode = 'invalid_transaction_state';
    end if;
    if p_awake then
        perform pg_advisory_unlock(1885823605, :id);
    end if;

    with recursive walk as (
        (
            select h.lane, h.msg_id, f.free, 1 as visited, f.free::integer as found
            from (
                select :lane as lane, m.msg_id, m.vt from pgmq.:queue m
                where not p_by_arrival and :lane >= p_from order by :lane, m.msg_id limit 1
            ) h cross join lateral (select :free as free) f
        )
        union all
        select h.lane, h.msg_id, f.free, w.visited + 1, w.found + f.free::integer
        from walk w cross join lateral (
            select :lane as lane, m.msg_id, m.vt from pgmq.:queue m
            where :lane > w.lane order by :lane, m.msg_id limit 1
        ) h cross join lateral (select :free as free) f
        where w.visited < p_visits and w.found < p_lanes
    ), arrived as (
        -- A lane's first event may have arrived long before those that are looked at here.
        select r.lane, h.msg_id, f.free, r.first, r.last, r.events,
            row_number() over (partition by f.free order by r.first) as n
        from (
            select e.lane, min(e.msg_id) as first, max(e.msg_id) as last, count(*) as events
            from (
                select :lane as lane, m.msg_id from pgmq.:queue m
                where p_by_arrival and m.msg_id >= p_from order by m.msg_id limit p_visits
            ) e
            group by e.lane
        ) r cross join lateral (
            select r.lane, m.msg_id, m.vt from pgmq.:queue m
            where :lane between r.lane and r.lane order by :lane, m.msg_id limit 1
        ) h cross join lateral (select :free as free) f
    ), head as (
        -- After a worker's death its events come back one at a time: at most one suspect a take,
        -- and none while the worker has one. (Whether anything went wrong at all is found out once.)
        select w.lane, s.msg_id as suspect,
            row_number() over (partition by s.msg_id is null order by w.lane) as n
        from (
            select w.lane, w.msg_id from walk w where w.free
            union all
            select r.lane, r.msg_id from arrived r where r.free and r.n <= p_lanes
        ) w left join lateral (
            select a.msg_id from pgbus.attempt a
            where a.subscription = :id and a.msg_id = w.msg_id and a.suspected + a.deaths > 0
                and (select exists (select from pgbus.attempt z where z.subscription = :id))
            limit 1
        ) s on true
    ), got as (
        insert into pgbus.lease as l (subscription, lane, worker, token, quantity, suspect)
        select :id, h.lane, p_worker, p_token,
            case when h.suspect is null then p_quantity else 1 end, h.suspect
        from head h where h.suspect is null or (p_suspect and h.n = 1)
        order by h.lane
        on conflict do nothing
        returning l.lane, l.suspect
    )
    select array_agg(g.lane), array_agg(g.suspect),
        case when p_by_arrival then (
            select coalesce(min(r.first) filter (where r.free and r.n > p_lanes) - 1,
                case when sum(r.events) >= p_visits then max(r.last) end)
            from arrived r
        ) else (
            select w.lane from walk w
            where w.visited >= p_visits or w.found >= p_lanes order by w.visited desc limit 1
        ) end,
        2 * count(*) < (
            select count(*) from head h where h.suspect is null or (p_suspect and h.n = 1)),
        (select coalesce(min(r.first) filter (where r.free), max(r.last) + 1) from arrived r)
        into won, suspects, seen, contested, live
        from got g;

    -- Text is made of one event after the other, and of none once they come to p_bytes: what is stored
    -- says little of it, because of compression, and of numbers like 1e131071.
    for place, lane, msg_id, available, enqueued_at, message, header, failures, deaths, suspect in
        select x.place, x.lane, n.msg_id,
            n.vt <= clock_timestamp()
                and (x.suspect is not null or coalesce(a.suspected + a.deaths, 0) = 0),
            n.enqueued_at, n.message, n.headers, a.failures, a.deaths, x.suspect is not null
        from unnest(won, suspects) with ordinality as x(lane, suspect, place)
        left join lateral (
            select m.msg_id, m.vt, m.enqueued_at, m.message, m.headers from pgmq.:queue m
            where :lane between x.lane and x.lane and m.msg_id >= coalesce(x.suspect, 0)
                and not :parked(x.lane)
            order by :lane, m.msg_id
            limit case when x.suspect is null then p_quantity else 1 end
        ) n on true
        left join lateral (
            select t.failures, t.deaths, t.suspected from pgbus.attempt t
            where t.subscription = :id and t.msg_id = n.msg_id
                and (select exists (select from pgbus.attempt z where z.subscription = :id))
            limit 1
        ) a on true
    loop
        body := case when p_careful then pgbus.readable(message) else message::text end;
        bytes := bytes + coalesce(octet_length(body), 0);
        exit when bytes > p_bytes and reached > 0;
        headers := case when p_careful then pgbus.readable(header) else header::text end;
        return next;
        reached := place;
        vain := vain + (available is not true)::integer;
    end loop;
    if reached < cardinality(won) then
        return query
        select u.lane, null::bigint, null::boolean, null::timestamptz, null, null,
            null::integer, null::integer, null::boolean
        from unnest(won[reached + 1:]) as u(lane);
        vain := vain + cardinality(won) - reached;
    end if;

    return query
    select live, seen, contested, null::timestamptz, null, null,
        coalesce(cardinality(won), 0), vain,
        coalesce(cardinality(array_remove(suspects, null)), 0) > 0;
end
$function$
$template$);

insert into pgbus.template (name, body) values ('settle', $template$
create or replace function pgbus.:function(
    -- the lanes that are settled, in ascending order, and whether they are let go
    p_worker bigint, p_lanes bigint[], p_tokens bigint[], p_release boolean[],
    -- handled: deleted
    p_done bigint[], p_done_lanes bigint[],
    -- to be tried again in `delay` seconds; `outcome` is failure, release or none
    p_again bigint[], p_again_lanes bigint[], p_delay double precision[], p_outcome text[],
    -- dead letters, each with what the worker says of its end
    p_dead bigint[], p_dead_lanes bigint[], p_reason text[],
    -- some of those done or dead had failed before: forget it
    p_troubled boolean,
    -- in the transaction of a handler, see pgbus.require_handling
    p_handling boolean,
    -- sent before, and the reply was lost: what stays leased counts as not held if that was committed
    p_repeated boolean
)
-- The lanes that the worker still held; nothing was done in the others.
returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $function$
declare
    places tid[];
    owned bigint[];
begin
    if p_handling then
        perform pgbus.require_handling();
    end if;

    -- Leases are found one by one and then deleted by their place, because whatever the statistics
    -- say, no plan of either can come to compare every lane with every lease. A row of this table
    -- never changes, and none can take another's place while this statement's snapshot lives.
    places := array(
        select l.place
        from unnest(p_lanes, p_tokens, p_release) as x(lane, token, release) cross join lateral (
            select l.ctid as place from pgbus.lease l
            where l.subscription = :id and l.lane = x.lane
                and l.worker = p_worker and l.token = x.token
            limit 1
        ) l
        where x.release);
    with freed as (
        delete from pgbus.lease l where l.ctid = any (places) returning l.lane
    ), kept as (
        select l.lane
        from unnest(p_lanes, p_tokens, p_release) as x(lane, token, release) cross join lateral (
            select l.lane from pgbus.lease l
            where l.subscription = :id and l.lane = x.lane
                and l.worker = p_worker and l.token = x.token
            for update
        ) l
        where not x.release
    )
    select array_agg(o.lane) into owned
    from (select k.lane from kept k union all select f.lane from freed f) o;
    if owned is null then
        return '{}';
    end if;
    if p_repeated then
        -- What was handled is gone then; and what its handlers published must not be published again.
        owned := array(
            select o.lane from unnest(owned) as o(lane)
            where not exists (
                select from unnest(p_lanes, p_release) as y(lane, release)
                join unnest(p_done, p_done_lanes) as x(id, lane) on x.lane = y.lane
                where y.lane = o.lane and not y.release
                    and not exists (select from pgmq.:queue m where m.msg_id = x.id)));
    end if;
    if cardinality(owned) < cardinality(p_lanes) then
        p_done := array(
            select x.id from unnest(p_done, p_done_lanes) as x(id, lane) where x.lane = any (owned));
    end if;

    if cardinality(p_done) > 0 then
        delete from pgmq.:queue m where m.msg_id = any (p_done);
    end if;

    if cardinality(p_again) > 0 then
        with touched as (
            update pgmq.:queue m
            set vt = clock_timestamp() + make_interval(secs => x.delay), read_ct = m.read_ct + 1,
                last_read_at = clock_timestamp()
            from unnest(p_again, p_again_lanes, p_delay, p_outcome) as x(id, lane, delay, outcome)
            where m.msg_id = x.id and x.lane = any (owned)
            returning x.id, x.outcome
        )
        insert into pgbus.attempt as a (subscription, msg_id, failures, releases)
        select :id, t.id, (t.outcome = 'failure')::integer, (t.outcome = 'release')::integer
        from touched t where t.outcome <> 'none'
        on conflict (subscription, msg_id) do update
            set failures = a.failures + excluded.failures, releases = a.releases + excluded.releases;
    end if;

    if cardinality(p_dead) > 0 then
        -- One statement, so that the letter appears as the event vanishes, whatever happens.
        with gone as (
            delete from pgmq.:queue m using unnest(p_dead, p_dead_lanes, p_reason) as x(id, lane, reason)
            where m.msg_id = x.id and x.lane = any (owned)
            returning m.msg_id, m.enqueued_at, m.message, m.headers, x.lane, x.reason
        )
        insert into pgmq.:dead (vt, enqueued_at, message, headers)
        select clock_timestamp(), g.enqueued_at, g.message,
            case when jsonb_typeof(g.headers) = 'object' then g.headers else '{}' end
            || jsonb_build_object('pgbus-dead', g.reason::jsonb || jsonb_build_object(
                'msg_id', g.msg_id, 'lane', g.lane, 'headers', g.headers,
                'attempts', coalesce(a.failures + a.deaths, 0) + (g.reason::jsonb ->> 'tried')::integer,
                'first_at', coalesce(a.first_at, clock_timestamp()),
                'last_at', clock_timestamp()))
        from gone g left join pgbus.attempt a on a.subscription = :id and a.msg_id = g.msg_id;
    end if;

    if p_troubled then
        delete from pgbus.attempt a
        where a.subscription = :id and (
            a.msg_id = any (p_done) or a.msg_id in (
                select x.id from unnest(p_dead, p_dead_lanes) as x(id, lane)
                where x.lane = any (owned)));
    end if;
    return owned;
end
$function$
$template$);

insert into pgbus.template (name, body) values ('acknowledge', $template$
create or replace function pgbus.:function(
    p_worker bigint, p_lane bigint, p_token bigint, p_release boolean, p_done bigint,
    p_troubled boolean
)
-- PB001 where the worker does not hold the lane any more.
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $function$
begin
    if current_setting('transaction_deferrable') <> 'on' then   -- to call it takes 5 µs
        perform pgbus.require_handling();
    end if;
    if p_release then
        delete from pgbus.lease l
        where l.subscription = :id and l.lane = p_lane
            and l.worker = p_worker and l.token = p_token;
    else
        perform from pgbus.lease l
        where l.subscription = :id and l.lane = p_lane
            and l.worker = p_worker and l.token = p_token
        for update;
    end if;
    if not found then
        raise exception 'the lease was lost' using errcode = 'PB001';
    end if;
    delete from pgmq.:queue m where m.msg_id = p_done;
    if p_troubled then
        delete from pgbus.attempt a where a.subscription = :id and a.msg_id = p_done;
    end if;
end
$function$
$template$);

insert into pgbus.template (name, body) values ('bury', $template$
create or replace function pgbus.:function(p_worker bigint) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp set jit = off
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $function$
declare
    lanes integer;
begin
    with held as (
        select l.lane, l.quantity, l.suspect from pgbus.lease l
        where l.subscription = :id and l.worker = p_worker
        -- What a stopped process has locked waits for the next round, not this for it.
        order by l.lane for update skip locked
    ), suspects as (
        select n.msg_id, (h.suspect is not null)::integer as alone
        from held h cross join lateral (
            select m.msg_id from pgmq.:queue m
            where :lane between h.lane and h.lane and m.msg_id >= coalesce(h.suspect, 0)
            order by :lane, m.msg_id limit h.quantity
        ) n
        where h.suspect is null or h.suspect = n.msg_id
    ), marked as (
        insert into pgbus.attempt as a (subscription, msg_id, deaths, suspected)
        select :id, s.msg_id, s.alone, 1 - s.alone from suspects s order by s.msg_id
        on conflict (subscription, msg_id) do update set
            -- Alone in flight, it is to blame, for the deaths it was suspected of, too.
            deaths = a.deaths + excluded.deaths * (1 + a.suspected),
            suspected = (a.suspected + excluded.suspected) * (1 - excluded.deaths)
    ), freed as (
        delete from pgbus.lease l using held h
        where l.subscription = :id and l.lane = h.lane and l.worker = p_worker
        returning 1
    )
    select count(*) into lanes from freed;
    return lanes;
end
$function$
$template$);

-- The lane of an event, as an expression over the alias of its queue.
create function pgbus.lane(p_alias text, p_ordered boolean) returns text
language sql immutable set search_path = pg_catalog, pg_temp
return format(case when p_ordered
    then 'coalesce(hashtextextended(%1$I.headers ->> ''x-pgmq-group'', 0), %1$I.msg_id)'
    else '%1$I.msg_id' end, p_alias);

-- The lane that a dead letter came from, as an expression over the alias of its table.
create function pgbus.dead_lane(p_alias text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
return format('((%I.headers -> ''pgbus-dead'' ->> ''lane'')::bigint)', p_alias);

-- SQL for one subscription: a text whose placeholders are filled in.
create function pgbus.filled(p_text text, p_subscription pgbus.subscription) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $function$
declare
    -- whether a lane can be leased whose first event is `h`
    free text := 'h.vt <= clock_timestamp() and not exists (select from pgbus.lease l '
        'where l.subscription = :id and l.lane = h.lane) and not :parked(h.lane)';
    -- whether a lane is parked
    parked text := case when p_subscription.park
        then format('exists (select from pgmq.:dead d where %s = \1)', pgbus.dead_lane('d'))
        else 'false' end;
    filled text;
begin
    filled := replace(p_text, ':free', free);
    filled := regexp_replace(filled, ':parked\(([^()]*)\)', parked, 'g');
    filled := replace(filled, ':queue', quote_ident('q_' || p_subscription.name));
    filled := replace(filled, ':dead', quote_ident('q_' || p_subscription.name || '_dlq'));
    filled := replace(filled, ':lane', pgbus.lane('m', p_subscription.ordered));
    filled := replace(filled, ':name', quote_literal(p_subscription.name));
    return replace(filled, ':id', p_subscription.id::text);
end
$function$;

-- Make, or make anew, the functions of a subscription from the templates of this schema.
create function pgbus.generate(p_subscription integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    s pgbus.subscription;
    t pgbus.template;
    made text;
begin
    select * into strict s from pgbus.subscription where id = p_subscription;
    for t in select * from pgbus.template loop
        made := quote_ident(t.name || '_' || case t.name when 'put' then s.id::text else s.name end);
        execute pgbus.filled(replace(t.body, ':function', made), s);
        execute format('revoke all on function pgbus.%s from public', made);
    end loop;
    perform pgbus.grant_subscription(p_subscription);
end
$function$;

-- Give back whatever a worker's takes won whose replies were lost.
create function pgbus.forget(p_worker bigint, p_tokens bigint[]) returns bigint
language sql set search_path = pg_catalog, pg_temp
begin atomic
    select pgbus.require_worker(p_worker);
    -- Told at the end of the transaction: those that found nothing free would not look so soon.
    select pg_notify('pgbus_' || s.name, '') from pgbus.subscription s
    where s.id in (
        select l.subscription from pgbus.lease l
        where l.worker = p_worker and l.token = any (p_tokens));
    with freed as (
        delete from pgbus.lease l where l.worker = p_worker and l.token = any (p_tokens) returning 1
    )
    select count(*) from freed;
end;
