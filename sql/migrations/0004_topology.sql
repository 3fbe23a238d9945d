-- Subscriptions: their queues, bindings and functions come and go together.

-- The id of a subscription that is as it should be, or null.
create function pgbus.find_subscription(p_name text, p_ordered boolean, p_park boolean)
returns integer
language sql set search_path = pg_catalog, pg_temp
begin atomic
    select pg_advisory_xact_lock(1885823606, hashtext(p_name));
    select s.id from pgbus.subscription s
    where s.name = p_name and s.ordered = p_ordered and s.park = p_park
        and s.template = (select max(number) from pgbus.migration);
end;

-- Create what a subscription needs, once; returns its id. Existing objects are left as they are.
-- It has its caller's rights: some may only find what others have created.
create function pgbus.declare(p_name text, p_ordered boolean, p_park boolean) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    id integer := pgbus.find_subscription(p_name, p_ordered, p_park);
begin
    if id is not null then
        return id;
    end if;
    if not has_function_privilege('pgbus.create_subscription(text, boolean, boolean)', 'execute') then
        raise exception 'role % may not create or change subscription %', current_user, p_name
            using errcode = 'insufficient_privilege',
            hint = 'let an operator run ''pgbus declare MODULE:BUS''';
    end if;
    return pgbus.create_subscription(p_name, p_ordered, p_park);
end
$function$;

-- Raise unless a subscription can be called so: names of tables, functions and roles are made of it.
create function pgbus.check_name(p_name text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $function$
begin
    if p_name is null or p_name !~ '^[a-z][a-z0-9_]{0,42}$' or p_name ~ '^pgbus_tail_|_dlq$' then
        raise exception 'this cannot name a subscription' using errcode = 'invalid_name';
    end if;
end
$function$;

create function pgbus.create_subscription(p_name text, p_ordered boolean, p_park boolean)
returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    s pgbus.subscription;
    newest integer := (select max(number) from pgbus.migration);
begin
    perform pgbus.check_name(p_name);
    perform pg_advisory_xact_lock(1885823606, hashtext(p_name));
    select * into s from pgbus.subscription where name = p_name for update;
    if s.ordered <> p_ordered then
        -- Lanes of both kinds at once would let two workers into one key.
        perform pgbus.refuse_live(s.id, format('%s (ordered=%s)', p_name, s.ordered));
    end if;

    if s.id is null then
        if not exists (select from pgmq.meta where queue_name = p_name) then
            perform pgmq.create(p_name);
            -- As small as by PostgreSQL's own method, in a tenth of the time, where the server has it;
            -- not in a queue that others use already: whoever reads it would have to be waited for.
            if exists (select from pg_settings
                    where name = 'default_toast_compression' and 'lz4' = any (enumvals)) then
                execute format('alter table pgmq.%I alter message set compression lz4', 'q_' || p_name);
            end if;
        end if;
        if not exists (select from pgmq.meta where queue_name = p_name || '_dlq') then
            perform pgmq.create(p_name || '_dlq');
        end if;
        execute format('create index if not exists %I on pgmq.%I (%s)',
            'pgbus_dead_' || p_name, 'q_' || p_name || '_dlq', pgbus.dead_lane('q_' || p_name || '_dlq'));
        execute format('alter table pgmq.%I set (autovacuum_vacuum_scale_factor = 0, '
            'autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.2, '
            'vacuum_truncate = off)', 'q_' || p_name);
        insert into pgbus.subscription (name, ordered, park) values (p_name, p_ordered, p_park)
        returning * into s;
        perform pgbus.wake_on_insert(s.id, p_name);
    end if;
    if p_ordered and to_regclass(format('pgmq.%I', 'pgbus_lane_' || p_name)) is null then
        execute format('create index %I on pgmq.%I (%s, msg_id)',
            'pgbus_lane_' || p_name, 'q_' || p_name, pgbus.lane('q_' || p_name, true));
    end if;
    update pgbus.subscription set ordered = p_ordered, park = p_park, template = newest
    where id = s.id;
    perform pgbus.generate(s.id);
    return s.id;
end
$function$;

-- Bind a subscription to the patterns (already expanded). Bindings that pgbus made and that neither
-- these patterns nor a live worker declares are removed where `prune` says so; returns those.
-- Nothing is written where nothing changes: every write stamps a new generation of routes.
-- Whoever serves a subscription may prune its bindings; to see more events takes more.
create function pgbus.bind(p_subscription integer, p_patterns text[], p_prune boolean)
returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    queue text;
    unwanted text[];
    may_add boolean := has_function_privilege(pgbus.caller(),
        'pgbus.create_subscription(text, boolean, boolean)', 'execute');
begin
    if not may_add then
        perform pgbus.require_subscriptions(array[p_subscription]);
    end if;
    select s.name into strict queue from pgbus.subscription s where s.id = p_subscription for update;
    if exists (
        select from unnest(p_patterns) as x(pattern) where not exists (
            select from pgmq.topic_bindings b
            where b.queue_name = queue and b.pattern = x.pattern)
    ) then
        if not may_add then
            raise exception 'role % may not bind subscription % to further patterns',
                pgbus.caller(), queue using errcode = 'insufficient_privilege',
                hint = 'let an operator run ''pgbus declare MODULE:BUS''';
        end if;
        with made as (
            insert into pgmq.topic_bindings (pattern, queue_name)
            select x.pattern, queue from unnest(p_patterns) as x(pattern)
            on conflict do nothing returning pattern
        )
        insert into pgbus.binding (subscription, pattern)
        select p_subscription, m.pattern from made m on conflict do nothing;
    end if;
    if not p_prune then
        return '{}';
    end if;

    perform pgbus.reap();
    unwanted := array(
        select b.pattern from pgbus.binding b
        where b.subscription = p_subscription and b.pattern <> all (p_patterns)
            and not exists (
                select from pgbus.worker_subscription d join pgbus.worker w on w.id = d.worker
                where d.subscription = p_subscription and w.dead_at is null
                    and b.pattern = any (d.patterns))
        order by b.pattern);
    if cardinality(unwanted) > 0 then
        delete from pgmq.topic_bindings b where b.queue_name = queue and b.pattern = any (unwanted);
        delete from pgbus.binding b
        where b.subscription = p_subscription and b.pattern = any (unwanted);
    end if;
    return unwanted;
end
$function$;

-- Every binding, and whether pgbus made it.
create function pgbus.bindings() returns table (pattern text, queue text, ours boolean)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select b.pattern, b.queue_name, m.subscription is not null
    from pgmq.topic_bindings b
    left join pgbus.subscription s on s.name = b.queue_name
    left join pgbus.binding m on m.subscription = s.id and m.pattern = b.pattern
    order by b.queue_name, b.pattern;
end;

-- Drop the functions that pgbus.generate made, but for the one that publishers may remember.
create function pgbus.degenerate(p_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    made regprocedure;
begin
    for made in
        select p.oid from pg_proc p join pgbus.template t on p.proname = t.name || '_' || p_name
        where p.pronamespace = 'pgbus'::regnamespace
    loop
        execute format('drop function %s', made);
    end loop;
end
$function$;

-- Refuse what would pull a queue from under a running worker's feet.
create function pgbus.refuse_live(p_subscription integer, p_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    holder text;
begin
    perform pgbus.reap();   -- where nobody runs, nobody has yet declared the silent dead
    select w.host || ', process ' || w.pid into holder
    from pgbus.worker_subscription d join pgbus.worker w on w.id = d.worker
    where d.subscription = p_subscription and w.dead_at is null limit 1;
    if holder is not null then
        raise exception 'subscription % is in use by a running worker (%): stop it first', p_name, holder
            using errcode = 'object_in_use';
    end if;
end
$function$;

-- Drop a subscription: queue, bindings, dead letters. Returns what it still held (in the order
-- events, dead letters); where that is anything and `force` is false, nothing is dropped.
-- Null where there is no such subscription.
create function pgbus.drop_subscription(p_name text, p_force boolean) returns bigint[]
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    s integer;
    events bigint;
    letters bigint;
begin
    perform pg_advisory_xact_lock(1885823606, hashtext(p_name));
    select id into s from pgbus.subscription where name = p_name for update;
    if not found then
        return null;
    end if;
    perform pgbus.refuse_live(s, p_name);
    execute format('lock table pgmq.%I, pgmq.%I in access exclusive mode',
        'q_' || p_name, 'q_' || p_name || '_dlq');
    execute format('select count(*) from pgmq.%I', 'q_' || p_name) into events;
    execute format('select count(*) from pgmq.%I', 'q_' || p_name || '_dlq') into letters;
    events := events + (select count(*) from pgbus.scheduled where p_name = any (queues));
    if events + letters > 0 and not p_force then
        return array[events, letters];
    end if;
    perform pgmq.drop_queue(p_name);
    perform pgmq.drop_queue(p_name || '_dlq');
    perform pgbus.degenerate(p_name);
    -- Whoever still remembers it is told that it remembers wrong: by an error, which takes back what
    -- the same statement has put into other queues.
    execute format('create or replace function pgbus.%I(p_bodies text[], p_headers text[]) '
        'returns integer language plpgsql as %L', 'put_' || s,
        format('begin raise undefined_table using message = %L; end',
            format('pgmq.q_%s was dropped', p_name)));
    delete from pgbus.lease where subscription = s;
    delete from pgbus.attempt where subscription = s;
    update pgbus.scheduled set queues = array_remove(queues, p_name) where p_name = any (queues);
    delete from pgbus.subscription where id = s;
    return array[events, letters];
end
$function$;

-- Rename a pgmq queue with everything that carries its name.
create function pgbus.rename_queue(p_old text, p_new text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    renamed record;
begin
    if exists (select from pgmq.meta where queue_name = p_new) then
        raise exception 'queue % exists already', p_new using errcode = 'duplicate_object';
    end if;
    insert into pgmq.meta (queue_name, is_partitioned, is_unlogged, created_at)
    select p_new, is_partitioned, is_unlogged, created_at from pgmq.meta where queue_name = p_old;
    update pgmq.topic_bindings set queue_name = p_new where queue_name = p_old;
    update pgmq.notify_insert_throttle set queue_name = p_new where queue_name = p_old;
    delete from pgmq.meta where queue_name = p_old;
    -- Tables first, then what hangs on them; each kind by the exact names pgmq and pgbus give.
    for renamed in
        select * from (values
            ('table', 'q_' || p_old, 'q_' || p_new), ('table', 'a_' || p_old, 'a_' || p_new),
            ('sequence', 'q_' || p_old || '_msg_id_seq', 'q_' || p_new || '_msg_id_seq'),
            ('index', 'q_' || p_old || '_vt_idx', 'q_' || p_new || '_vt_idx'),
            ('index', 'q_' || p_old || '_pkey', 'q_' || p_new || '_pkey'),
            ('index', 'a_' || p_old || '_pkey', 'a_' || p_new || '_pkey'),
            ('index', 'archived_at_idx_' || p_old, 'archived_at_idx_' || p_new),
            ('index', 'pgbus_lane_' || p_old, 'pgbus_lane_' || p_new)
        ) as x(kind, was, becomes)
    loop
        if to_regclass(format('pgmq.%I', renamed.was)) is not null then
            execute format('alter %s pgmq.%I rename to %I', renamed.kind, renamed.was, renamed.becomes);
        end if;
    end loop;
end
$function$;

-- Rename a subscription with its queue, dead letters, bindings and waiting events.
-- False where there is no such subscription.
create function pgbus.rename_subscription(p_old text, p_new text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    s integer;
begin
    perform pgbus.check_name(p_new);
    perform pg_advisory_xact_lock(1885823606, k)
    from (select hashtext(n) as k from unnest(array[p_old, p_new]) as x(n) order by 1) locks;
    select id into s from pgbus.subscription where name = p_old for update;
    if not found then
        return false;
    end if;
    perform pgbus.refuse_live(s, p_old);
    -- Whoever moves due events has read the names of their queues, and passes over one that is gone by
    -- its turn: not while we rename. Asked for before we lock a queue, or each would wait for the other.
    -- (Locks of rows instead would miss what is scheduled while we wait for the queue, and hold up polls.)
    perform pg_advisory_xact_lock(1885823605, 0);
    if exists (select from pgbus.subscription where name = p_new) then
        raise exception 'subscription % exists already', p_new using errcode = 'duplicate_object';
    end if;
    perform pgbus.degenerate(p_old);
    perform pgbus.rename_queue(p_old, p_new);
    perform pgbus.rename_queue(p_old || '_dlq', p_new || '_dlq');
    execute format('alter index if exists pgmq.%I rename to %I',
        'pgbus_dead_' || p_old, 'pgbus_dead_' || p_new);
    perform pgbus.wake_on_insert(s, p_new);
    update pgbus.scheduled set queues = array_replace(queues, p_old, p_new)
    where p_old = any (queues);
    update pgbus.subscription set name = p_new where id = s;
    perform pgbus.generate(s);
    return true;
end
$function$;
