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

-- Whether a lease is ended by whom it belongs to: a session of the worker, or a transaction in which
-- it asked to settle the lane (which alone tells workers that a test steps by hand). A bus that was
-- declared dead goes on, as another worker, on connections that have the name of the one before.
create function torture.is_own(p_name text, p_lane bigint, p_worker bigint, p_token bigint)
returns boolean language plpgsql as $function$
begin
    if current_setting('application_name') = 'pgbus/' || to_hex(p_worker) then
        return true;
    end if;
    if exists (
        select from pgbus.worker heir join pgbus.worker w on w.pid = heir.pid and w.host = heir.host
        where heir.id = p_worker
            and current_setting('application_name') = 'pgbus/' || to_hex(w.id)
    ) then
        return true;
    end if;
    return exists (
        select from torture.audit a
        where a.kind = 'claim' and a.xid = pg_current_xact_id()::text::bigint
            and a.subscription = p_name and a.lane = p_lane
            and a.worker = p_worker and a.token = p_token);
end
$function$;

-- 'buried' where its worker was declared dead, 'end' where that let go of it, and else 'robbed'.
create function torture.ended() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, worker, token)
    select case when current_setting('torture.burying', true) = 'yes' then 'buried'
            when torture.is_own(s.name, o.lane, o.worker, o.token) then 'end'
            else 'robbed' end,
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

-- A message of a queue (argument 0) was settled or retried (argument 1).
create function torture.moved() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, msg_id, uid)
    select tg_argv[1], tg_argv[0],
        coalesce(hashtextextended(m.headers ->> 'x-pgmq-group', 0), m.msg_id),
        m.msg_id, m.message ->> 'uid'
    from messages m order by m.msg_id;
    return null;
end
$function$;

-- A dead letter came, or went: back where it came from, or for good.
create function torture.lettered() returns trigger language plpgsql as $function$
begin
    insert into torture.audit (kind, subscription, lane, msg_id, uid)
    select case when tg_op = 'INSERT' then 'letter'
            when current_setting('torture.redriving', true) = 'yes' then 'redriven'
            else 'dropped' end,
        tg_argv[0], (m.headers -> 'pgbus-dead' ->> 'lane')::bigint,
        (m.headers -> 'pgbus-dead' ->> 'msg_id')::bigint, m.message ->> 'uid'
    from messages m order by m.msg_id;
    return null;
end
$function$;

-- Put a function in front of one of pgbus's; `p_body` calls that as `pgbus.%1$s`, and has the name
-- of its subscription, if there is one, as `%2$L`.
create function torture.wrap(p_kind text, p_name text, p_returns text, p_body text) returns void
language plpgsql as $function$
declare
    wrapped text := concat_ws('_', p_kind, p_name);
    arguments text;
    call text;
begin
    select pg_get_function_identity_arguments(p.oid),
        format('%I(%s)', 'watched_' || wrapped, array_to_string(p.proargnames, ', '))
        into strict arguments, call
    from pg_proc p where p.pronamespace = 'pgbus'::regnamespace and p.proname = wrapped;
    execute format('alter function pgbus.%I rename to %I', wrapped, 'watched_' || wrapped);
    execute format('create function pgbus.%I(%s) returns %s language plpgsql as %L',
        wrapped, arguments, p_returns, format(p_body, call, p_name));
end
$function$;

-- Watch a subscription that is declared and that nobody serves yet.
create function torture.watch(p_name text) returns void language plpgsql as $function$
begin
    execute format('create trigger torture_settled after delete on pgmq.%I referencing old table '
        'as messages for each statement execute function torture.moved(%L, ''settled'')',
        'q_' || p_name, p_name);
    execute format('create trigger torture_touched after update on pgmq.%I referencing new table '
        'as messages for each statement execute function torture.moved(%L, ''retried'')',
        'q_' || p_name, p_name);
    execute format('create trigger torture_buried after insert on pgmq.%I referencing new table '
        'as messages for each statement execute function torture.lettered(%L)',
        'q_' || p_name || '_dlq', p_name);
    execute format('create trigger torture_lifted after delete on pgmq.%I referencing old table '
        'as messages for each statement execute function torture.lettered(%L)',
        'q_' || p_name || '_dlq', p_name);
    perform torture.wrap('settle', p_name, 'bigint[]', $body$
        declare
            owned bigint[];
        begin
            insert into torture.audit (kind, subscription, lane, worker, token)
            select 'claim', %2$L, x.lane, p_worker, x.token
            from unnest(p_lanes, p_tokens) as x(lane, token);
            owned := pgbus.%1$s;
            insert into torture.audit (kind, subscription, lane, worker, token)
            select 'refused', %2$L, x.lane, p_worker, x.token
            from unnest(p_lanes, p_tokens) as x(lane, token) where x.lane <> all (owned)
                and x.lane = any (p_done_lanes || p_again_lanes || p_dead_lanes);
            return owned;
        end
        $body$);
    -- What is refused here is rolled back, and so would be what was written of it.
    perform torture.wrap('acknowledge', p_name, 'void', $body$
        begin
            insert into torture.audit (kind, subscription, lane, worker, token)
            values ('claim', %2$L, p_lane, p_worker, p_token);
            perform pgbus.%1$s;
        end
        $body$);
    perform torture.wrap('bury', p_name, 'integer', $body$
        declare
            lanes integer;
        begin
            perform set_config('torture.burying', 'yes', true);
            lanes := pgbus.%1$s;
            perform set_config('torture.burying', '', true);
            return lanes;
        end
        $body$);
end
$function$;

select torture.wrap('redrive', null, 'bigint', $body$
    declare
        moved bigint;
    begin
        perform set_config('torture.redriving', 'yes', true);
        moved := pgbus.%1$s;
        perform set_config('torture.redriving', '', true);
        return moved;
    end
    $body$);
