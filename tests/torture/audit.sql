-- What a torture test's database writes down of itself, in the transactions that do it: who was
-- given which lease, who lost it how, which messages were settled, and who was alive.

create schema torture;

-- Ordered by seq, the rows of one lane are in the order in which they took effect: whoever is given
-- a lease must first have waited for the one before to commit.
create table torture.audit (
    seq bigint generated always as identity,
    at timestamptz not null default clock_timestamp(),
    xid bigint not null default pg_current_xact_id()::text::bigint,
    kind text not null,
    subscription text,
    lane bigint,
    worker bigint,
    token bigint,
    msg_id bigint,
    uid text,
    pid integer
);

-- Few are of these kinds, and they are looked for during the run.
create index on torture.audit (kind, xid) where kind in ('redriven', 'over');

-- Effects of transactional handlers; nothing keeps one from being there twice.
create table torture.effect (
    id bigint generated always as identity,
    subscription text not null,
    uid text not null,
    key text,
    pid integer not null,
    began bigint not null,      -- monotonic nanoseconds of the handler's machine
    ended bigint not null
);

create function torture.granted() returns trigger language plpgsql as $function$
begin
    -- Now, not by the clock: when the take began, whose snapshot was made after that.
    insert into torture.audit (at, kind, subscription, lane, worker, token)
    select now(), 'grant', s.name, n.lane, n.worker, n.token
    from made n join pgbus.subscription s on s.id = n.subscription order by n.lane;
    return null;
end
$function$;

-- 'buried' where somebody else let go of the lease, 'end' where its worker did.
create function torture.ended() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, worker, token)
    select case current_setting('torture.burying', true) when 'yes' then 'buried' else 'end' end,
        s.name, o.lane, o.worker, o.token
    from gone o join pgbus.subscription s on s.id = o.subscription order by o.lane;
    return null;
end
$function$;

create trigger torture_granted after insert on pgbus.lease
    referencing new table as made for each statement execute function torture.granted();
create trigger torture_ended after delete on pgbus.lease
    referencing old table as gone for each statement execute function torture.ended();

create function torture.lived() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, worker, pid)
    values (case when tg_op = 'INSERT' then 'born'
        when new.dead_at is not null then 'died' else 'beat' end, new.id, new.pid);
    return null;
end
$function$;

create trigger torture_lived after insert or update on pgbus.worker
    for each row execute function torture.lived();

create function torture.settled() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, msg_id, uid)
    select 'settled', tg_argv[0],
        coalesce(hashtextextended(o.headers ->> 'x-pgmq-group', 0), o.msg_id),
        o.msg_id, o.message ->> 'uid'
    from gone o order by o.msg_id;
    return null;
end
$function$;

create function torture.touched() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, msg_id, uid)
    select 'retried', tg_argv[0],
        coalesce(hashtextextended(n.headers ->> 'x-pgmq-group', 0), n.msg_id),
        n.msg_id, n.message ->> 'uid'
    from made n order by n.msg_id;
    return null;
end
$function$;

create function torture.buried() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, msg_id, uid)
    select 'letter', tg_argv[0], (n.headers -> 'pgbus-dead' ->> 'lane')::bigint,
        (n.headers -> 'pgbus-dead' ->> 'msg_id')::bigint, n.message ->> 'uid'
    from made n order by n.msg_id;
    return null;
end
$function$;

-- A dead letter went: back where it came from, or for good.
create function torture.lifted() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, msg_id, uid)
    select case current_setting('torture.redriving', true)
            when 'yes' then 'redriven' else 'dropped' end,
        tg_argv[0], (o.headers -> 'pgbus-dead' ->> 'lane')::bigint,
        (o.headers -> 'pgbus-dead' ->> 'msg_id')::bigint, o.message ->> 'uid'
    from gone o order by o.msg_id;
    return null;
end
$function$;

-- Put a function in front of one that pgbus generated; `p_body` calls it as `%I` with its arguments.
create function torture.wrap(p_function text, p_returns text, p_body text) returns void
language plpgsql as $function$
declare
    arguments text;
begin
    select pg_get_function_identity_arguments(p.oid) into strict arguments from pg_proc p
    where p.pronamespace = 'pgbus'::regnamespace and p.proname = p_function;
    execute format('alter function pgbus.%I rename to %I', p_function, 'watched_' || p_function);
    execute format('create function pgbus.%I(%s) returns %s language plpgsql as %L',
        p_function, arguments, p_returns, p_body);
end
$function$;

-- Watch a subscription that is declared and that nobody serves yet.
create function torture.watch(p_name text) returns void language plpgsql as $function$
declare
    names text;
begin
    execute format('create trigger torture_settled after delete on pgmq.%I referencing old table '
        'as gone for each statement execute function torture.settled(%L)', 'q_' || p_name, p_name);
    execute format('create trigger torture_touched after update on pgmq.%I referencing new table '
        'as made for each statement execute function torture.touched(%L)', 'q_' || p_name, p_name);
    execute format('create trigger torture_buried after insert on pgmq.%I referencing new table '
        'as made for each statement execute function torture.buried(%L)',
        'q_' || p_name || '_dlq', p_name);
    execute format('create trigger torture_lifted after delete on pgmq.%I referencing old table '
        'as gone for each statement execute function torture.lifted(%L)',
        'q_' || p_name || '_dlq', p_name);
    select array_to_string(p.proargnames, ', ') into strict names from pg_proc p
    where p.pronamespace = 'pgbus'::regnamespace and p.proname = 'settle_' || p_name;
    perform torture.wrap('settle_' || p_name, 'bigint[]', format($body$
        declare
            owned bigint[];
        begin
            insert into torture.audit (kind, subscription, lane, worker, token)
            select 'claim', %1$L, x.lane, p_worker, x.token
            from unnest(p_lanes, p_tokens) as x(lane, token);
            owned := pgbus.%2$I(%3$s);
            insert into torture.audit (kind, subscription, lane, worker, token)
            select 'refused', %1$L, x.lane, p_worker, x.token
            from unnest(p_lanes, p_tokens) as x(lane, token) where x.lane <> all (owned)
                and x.lane = any (p_done_lanes || p_again_lanes || p_dead_lanes);
            return owned;
        end
        $body$, p_name, 'watched_settle_' || p_name, names));
    select array_to_string(p.proargnames, ', ') into strict names from pg_proc p
    where p.pronamespace = 'pgbus'::regnamespace and p.proname = 'acknowledge_' || p_name;
    perform torture.wrap('acknowledge_' || p_name, 'boolean', format($body$
        declare
            held boolean;
        begin
            insert into torture.audit (kind, subscription, lane, worker, token)
            values ('claim', %1$L, p_lane, p_worker, p_token);
            held := pgbus.%2$I(%3$s);
            if not held then
                insert into torture.audit (kind, subscription, lane, worker, token)
                values ('refused', %1$L, p_lane, p_worker, p_token);
            end if;
            return held;
        end
        $body$, p_name, 'watched_acknowledge_' || p_name, names));
    perform torture.wrap('bury_' || p_name, 'integer', format($body$
        declare
            lanes integer;
        begin
            perform set_config('torture.burying', 'yes', true);
            lanes := pgbus.%I(p_worker);
            perform set_config('torture.burying', '', true);
            return lanes;
        end
        $body$, 'watched_bury_' || p_name));
end
$function$;

select torture.wrap('redrive', 'bigint', $body$
    declare
        moved bigint;
    begin
        perform set_config('torture.redriving', 'yes', true);
        moved := pgbus.watched_redrive(p_name, p_ids, p_limit);
        perform set_config('torture.redriving', '', true);
        return moved;
    end
    $body$);
