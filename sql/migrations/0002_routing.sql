-- From a topic to queues, and from a publish to rows.

-- Stamp every change of a binding, whoever makes it.
create function pgbus.bindings_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $function$
begin
    update pgbus.routing set generation = gen_random_uuid();
    return null;
end
$function$;

-- What pgbus adds to pgmq's table of bindings, where it is missing: every installation looks, because
-- a dump of a database where pgmq is an extension leaves out what was added to its tables.
--
-- The index has patterns by what is fixed at their ends: 'orders.*.placed' and 'orders.*.eu.#.placed'
-- are both at 'orders.*.placed'. To try each regular expression takes 100 ms and more where there are
-- 10,000. An expression rather than a function: whoever binds a pattern evaluates it with rights of
-- his own. Its order is that of bytes: no new release of the system's locales changes that.
create function pgbus.attend_bindings() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    if not exists (
        select from pg_trigger
        where tgrelid = 'pgmq.topic_bindings'::regclass and tgname = 'pgbus_bindings_changed'
    ) then
        create trigger pgbus_bindings_changed
            after insert or update or delete or truncate on pgmq.topic_bindings
            for each statement execute function pgbus.bindings_changed();
        update pgbus.routing set generation = gen_random_uuid();
    end if;
    if to_regclass('pgmq.pgbus_bindings_by_ends') is null then
        begin
            create index pgbus_bindings_by_ends on pgmq.topic_bindings
                ((regexp_replace(pattern, '[^.]*[*#](.*[*#])?[^.]*', '*') collate "C"));
        exception when insufficient_privilege then
            -- Who may make the trigger need not own the table; and this is about speed alone.
            raise notice 'no index on pgmq.topic_bindings: role % does not own it', current_user;
        end;
    end if;
end
$function$;

select pgbus.attend_bindings();

-- What the patterns that match a topic can have at their ends: 'a.b' gives a.b, *, a.* and *.b.
create function pgbus.ends(p_topic text) returns text[]
language sql immutable strict set search_path = pg_catalog, pg_temp
begin atomic
    with words as materialized (
        select n, array_to_string(list[:n], '.') || '.' as first,
            '.' || array_to_string(list[cardinality(list) - n + 1:], '.') as last,
            cardinality(list) as total
        from (select string_to_array(p_topic, '.')) as t(list), generate_series(0, cardinality(list) - 1) as n
    )
    select array_agg(case when f.n > 0 then f.first else '' end || '*'
        || case when l.n > 0 then l.last else '' end) || p_topic
    from words f, words l where f.n + l.n < f.total;
end;

-- Notify the sleeping fetcher of a subscription (argument 0: its channel).
create function pgbus.wake() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    perform pg_notify(tg_argv[0], '');
    return null;
end
$function$;

-- Have whatever comes into the queue of a subscription wake its fetcher, if that sleeps.
-- A sleeper holds the advisory lock exclusively; a failed try is the sign that somebody sleeps. So a
-- busy bus sends no NOTIFY at all, whose database-wide lock would put commits in a line. A publisher
-- that saw nobody asleep keeps its shared lock to its end: nobody can fall asleep before its events
-- are visible. The condition is the trigger's, because to call a function takes 8 µs.
create function pgbus.wake_on_insert(p_subscription integer, p_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    execute format('create or replace trigger pgbus_wake after insert on pgmq.%I for each statement '
        'when (not pg_try_advisory_xact_lock_shared(1885823605, %s)) '
        'execute function pgbus.wake(%L)', 'q_' || p_name, p_subscription, 'pgbus_' || p_name);
end
$function$;

-- The id of a tail's queue, or null for any other queue.
create function pgbus.tail_id(p_queue text) returns integer
language sql immutable strict set search_path = pg_catalog, pg_temp
return case when p_queue ~ '^pgbus_tail_[0-9a-f]{8}$'
    then ('x' || right(p_queue, 8))::bit(32)::integer end;

-- Show events to a tail. Whatever is wrong with it is none of the publisher's business; where its
-- session is gone (nobody holds its lock), its queue must not grow until somebody drops it.
create function pgbus.feed_tail(p_queue text, p_bodies text[], p_headers text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    if p_bodies is null then
        return;
    end if;
    if pg_try_advisory_xact_lock_shared(1885823604, pgbus.tail_id(p_queue)) then
        return;
    end if;
    execute format(
        'insert into pgmq.%I (vt, message, headers) '
        'select clock_timestamp(), e.body::jsonb, e.header::jsonb '
        'from unnest($1, $2) with ordinality as e(body, header, n) order by e.n', 'q_' || p_queue)
    using p_bodies, p_headers;
exception when undefined_table or insufficient_privilege then
    null;
end
$function$;

-- Remember an id that a publisher gave; false where it is known.
create function pgbus.remember(p_id uuid, p_window interval) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    insert into pgbus.published as p (id, forget_at) values (p_id, clock_timestamp() + p_window)
    on conflict (id) do update set forget_at = excluded.forget_at
        where p.forget_at < clock_timestamp();
    return found;
end
$function$;

-- Store events and say where they went.
--   known, topics, routes: for each distinct topic the queues (joined by commas) that the client
--     remembers from generation `known`, or null
--   topic, body, header: for each event, the index of its topic, its body and its headers
--   ids, dedup_window: for each event the id its caller gave, or null; the whole array null if none
--   due, delay: for each event when it falls due, or in how many seconds; null arrays if none waits
--   strict: store nothing where a topic has no queue (a tail's does not count)
-- Returns the generation and routes to remember, for each topic the numbers of the subscriptions
-- whose put_<number> may be called next time (null where not all queues are subscriptions'), and the
-- indexes of duplicates.
-- Client-side memory rather than a table of routes: it needs no write, so no snapshot can be too old.
create function pgbus.publish(
    known uuid, topics text[], routes text[],
    topic integer[], body text[], header text[],
    ids uuid[], dedup_window interval,
    due timestamptz[], delay double precision[],
    strict boolean,
    out generation uuid, out queues text[], out direct text[], out duplicates integer[]
)
language plpgsql set search_path = pg_catalog, pg_temp set jit = off as $function$
#variable_conflict use_variable
declare
    queue text;
    moment timestamptz := clock_timestamp();
    trusted boolean;
    late integer[] := '{}';     -- the events that wait for their time
    skipped integer[];
    here integer[];             -- the topics that go to the queue
begin
    -- Whoever may publish may so to subscriptions, and to queues that something is bound to, whatever
    -- it claims to remember. (CASE: to look through the bindings takes long.)
    trusted := not exists (
        select from unnest(routes) as r(list), unnest(string_to_array(r.list, ',')) as q(name)
        where case when exists (select from pgbus.subscription s where s.name = q.name) then false
            else not exists (select from pgmq.topic_bindings b where b.queue_name = q.name) end);
    -- The generation and the bindings in one statement: in two, a binding could slip in between.
    select r.generation,
        case when r.generation = known and trusted and array_position(routes, null) is null
            then routes
        else (
            select array_agg(
                case when r.generation = known and trusted and t.route is not null then t.route
                else (
                    select coalesce(string_agg(distinct b.queue_name, ',' order by b.queue_name), '')
                    from pgbus.ends(t.topic) as ends, pgmq.topic_bindings b
                    where regexp_replace(b.pattern, '[^.]*[*#](.*[*#])?[^.]*', '*') collate "C"
                        = any (ends)
                        and t.topic ~ b.compiled_regex
                ) end order by t.n)
            from unnest(topics, routes) with ordinality as t(topic, route, n)
        ) end
        into generation, queues
        from pgbus.routing r;
    duplicates := '{}';
    direct := array(
        select (
            select case when count(*) = count(s.id) then coalesce(string_agg(s.id::text, ','), '') end
            from unnest(string_to_array(r.list, ',')) as q(name)
            left join pgbus.subscription s on s.name = q.name
        )
        from unnest(queues) with ordinality as r(list, n) order by r.n);
    if strict and exists (
        select from unnest(queues) as r(list)
        where btrim(regexp_replace(r.list, 'pgbus_tail_[0-9a-f]{8}', '', 'g'), ',') = ''
    ) then
        return;
    end if;

    if ids is not null then
        -- Sorted, so that two batches with the same ids wait for each other and do not deadlock.
        with fresh as (
            insert into pgbus.published as p (id, forget_at)
            select g.id, clock_timestamp() + dedup_window
            from unnest(ids) as g(id) where g.id is not null order by g.id
            on conflict (id) do update set forget_at = excluded.forget_at
                where p.forget_at < clock_timestamp()
            returning p.id
        )
        select coalesce(array_agg(g.n::integer), '{}') into duplicates
        from unnest(ids) with ordinality as g(id, n)
        where g.id is not null and g.id not in (select f.id from fresh f);
    end if;

    if due is not null or delay is not null then
        select array_agg(coalesce(e.due, moment + make_interval(secs => e.delay)) order by e.n),
            coalesce(array_agg(e.n::integer) filter (
                where coalesce(e.due, moment + make_interval(secs => e.delay)) > moment), '{}')
            into due, late
            from unnest(due, delay) with ordinality as e(due, delay, n);
        insert into pgbus.scheduled (due_at, queues, body, headers)
        select e.due, string_to_array(queues[e.topic], ','), e.body::jsonb, e.header::jsonb
        from unnest(topic, body, header, due) with ordinality as e(topic, body, header, due, n)
        where e.n = any (late) and e.n <> all (duplicates) and queues[e.topic] <> ''
        order by e.n;
        perform pg_notify('pgbus', '');
    end if;
    skipped := duplicates || late;

    -- In the order of a put, too: what else hangs on inserts may lock something until the commit, and
    -- two that go in two orders wait for each other.
    for queue in
        select q.name from unnest(queues) as r(list), unnest(string_to_array(r.list, ',')) as q(name)
        left join pgbus.subscription s on s.name = q.name
        group by q.name, s.id order by s.id, q.name
    loop
        if starts_with(queue, 'pgbus_tail_') then
            perform pgbus.feed_tail(queue, array_agg(e.body order by e.n), array_agg(e.header order by e.n))
            from unnest(topic, body, header) with ordinality as e(topic, body, header, n)
            where queue = any (string_to_array(queues[e.topic], ',')) and e.n <> all (skipped);
        elsif cardinality(topics) = 1 and cardinality(skipped) = 0 then
            execute format(
                'insert into pgmq.%I (vt, message, headers) '
                'select clock_timestamp(), e.body::jsonb, e.header::jsonb '
                'from unnest($1, $2) with ordinality as e(body, header, n) order by e.n',
                'q_' || lower(queue))
            using body, header;
        else
            here := array(
                select r.n::integer from unnest(queues) with ordinality as r(list, n)
                where queue = any (string_to_array(r.list, ',')));
            execute format(
                'insert into pgmq.%I (vt, message, headers) '
                'select clock_timestamp(), e.body::jsonb, e.header::jsonb '
                'from unnest($1, $2, $3) with ordinality as e(topic, body, header, n) '
                'where e.topic = any ($4) and e.n <> all ($5) order by e.n',
                'q_' || lower(queue))
            using topic, body, header, here, skipped;
        end if;
    end loop;
end
$function$;
