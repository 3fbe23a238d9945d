-- Roles: who may do what.
--
-- Nobody but the owner has a right on a table of pgbus or of a queue. Functions are the door: they
-- run with the rights of their owner (SECURITY DEFINER) on a search_path of their own, and who may
-- call which is nearly all there is to grant. What stands for one subscription (take, settle,
-- acknowledge) is a function of its own; others ask whether their caller may call that one
-- (require_subscriptions). It costs nothing that can be measured: what does is a SET, 0.4 µs for the
-- search_path, which they had before.
--
-- The exceptions: publishers may read the view pgbus.stamp, and declare and end_sessions have their
-- caller's rights; each says why.
--
-- Roles belong to the whole cluster. Databases that share a prefix share their roles, and CONNECT
-- tells them apart; with a prefix each, nothing is shared.

create table pgbus.roles (
    only_row boolean primary key default true check (only_row),
    prefix text not null                -- of the names of the roles
);

-- All that a publisher which remembers its routes has to read.
create view pgbus.stamp as select r.generation from pgbus.routing r;

-- What may be called by whom. Subscribers are publishers, too; each has its own take and settle, and
-- publishers every put, by pgbus.grant_subscription. Whatever is not here is the owner's alone.
create function pgbus.doors() returns table (kind text, function text)
language sql immutable set search_path = pg_catalog, pg_temp
begin atomic
    values
        ('publisher', 'applied'),
        ('publisher', 'publish'),
        ('publisher', 'remember'),
        ('publisher', 'record_types'),
        ('publisher', 'record_publisher'),
        ('publisher', 'sweep_tails'),
        ('subscriber', 'declare'),
        ('subscriber', 'find_subscription'),
        ('subscriber', 'bind'),
        ('subscriber', 'event_types'),
        ('subscriber', 'start_worker'),
        ('subscriber', 'accept'),
        ('subscriber', 'heartbeat'),
        ('subscriber', 'stop_worker'),
        ('subscriber', 'reap'),
        ('subscriber', 'dead_workers'),
        ('subscriber', 'end_sessions'),
        ('subscriber', 'forget'),
        ('subscriber', 'forget_published'),
        ('subscriber', 'poll'),
        ('subscriber', 'known_elsewhere'),
        ('subscriber', 'idle'),
        ('operator', 'applied'),
        ('operator', 'declare'),
        ('operator', 'find_subscription'),
        ('operator', 'create_subscription'),
        ('operator', 'bind'),
        ('operator', 'bindings'),
        ('operator', 'status'),
        ('operator', 'has_subscription'),
        ('operator', 'dead_letters'),
        ('operator', 'redrive'),
        ('operator', 'drop_dead_letters'),
        ('operator', 'start_tail'),
        ('operator', 'read_tail'),
        ('operator', 'stop_tail'),
        ('operator', 'sweep_tails'),
        ('operator', 'event_types'),
        ('operator', 'publishers'),
        ('operator', 'acceptors'),
        ('operator', 'forget_type');
end;

-- The role for one subscription; null where the roles were not asked for.
create function pgbus.subscriber_role(p_name text) returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select r.prefix || '_subscriber_' || p_name from pgbus.roles r;
end;

-- Where nothing is missing nothing is written: two that write one function's rights at once fail.
create function pgbus.grant_execute(p_function text, p_role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    perform from pg_proc p
    where p.proname = p_function::name and p.pronamespace = 'pgbus'::regnamespace
        and not has_function_privilege(p_role, p.oid, 'execute');
    if found then
        execute format('grant execute on function pgbus.%I to %I', p_function, p_role);
    end if;
end
$function$;

-- Let publishers put into a subscription, and its own role serve it, if there is one.
create function pgbus.grant_subscription(p_subscription integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    prefix text := (select r.prefix from pgbus.roles r);
    name text := (select s.name from pgbus.subscription s where s.id = p_subscription);
begin
    if prefix is null then
        return;
    end if;
    perform pgbus.grant_execute('put_' || p_subscription, prefix || '_publisher');
    perform pgbus.grant_execute(f.kind || name, r.rolname)
    from pg_roles r, unnest(array['take_', 'settle_', 'acknowledge_']) as f(kind)
    where r.rolname = pgbus.subscriber_role(name);
end
$function$;

-- Give every object of pgbus and pgmq to the owner's role, and what belongs to an extension into its
-- use. It has its caller's rights.
create function pgbus.hand_over(p_owner text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    change text;
begin
    for change in
        select format('grant usage, create on schema %I to %I', n.nspname, p_owner)
        from pg_namespace n where n.nspname in ('pgbus', 'pgmq') and not (
            has_schema_privilege(p_owner, n.oid, 'usage')
            and has_schema_privilege(p_owner, n.oid, 'create'))
    loop
        execute change;
    end loop;
    for change in
        with spaces as (
            select n.oid, n.nspname, n.nspowner from pg_namespace n
            where n.nspname in ('pgbus', 'pgmq')
        ), found as (
            select 1 as place, 'pg_class'::regclass as catalog, c.oid, 'table' as kind,
                c.oid::regclass::text as name, c.relowner as owner
            from pg_class c join spaces n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p', 'v')
            union all
            select 2, 'pg_class'::regclass, c.oid, 'sequence', c.oid::regclass::text, c.relowner
            from pg_class c join spaces n on n.oid = c.relnamespace
            where c.relkind = 'S' and not exists (     -- a column's goes with its table
                select from pg_depend d where d.classid = 'pg_class'::regclass
                    and d.objid = c.oid and d.deptype in ('a', 'i'))
            union all
            select 3, 'pg_type'::regclass, t.oid, 'type', t.oid::regtype::text, t.typowner
            from pg_type t join spaces n on n.oid = t.typnamespace
            join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
            union all
            select 4, 'pg_proc'::regclass, p.oid, 'routine', p.oid::regprocedure::text, p.proowner
            from pg_proc p join spaces n on n.oid = p.pronamespace
            union all
            select 5, 'pg_namespace'::regclass, n.oid, 'schema', quote_ident(n.nspname), n.nspowner
            from spaces n
        )
        select case when e.objid is null
            then format('alter %s %s owner to %I', f.kind, f.name, p_owner)
            else format('grant all on table %s to %I', f.name, p_owner) end
        from found f
        left join pg_depend e on e.classid = f.catalog and e.objid = f.oid and e.deptype = 'e'
        where f.owner <> (select r.oid from pg_roles r where r.rolname = p_owner)
            and (e.objid is null
                or f.kind = 'table' and not has_table_privilege(p_owner, f.oid, 'insert'))
        order by f.place
    loop
        execute change;
    end loop;
end
$function$;

-- Make the functions of subscriptions anew whose template is an older one: where there are roles, who
-- starts a subscription may not.
create function pgbus.renew_subscriptions() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    newest integer := (select max(m.number) from pgbus.migration m);
    old text;
begin
    for old in
        select s.name from pgbus.subscription s where s.template <> newest order by hashtext(s.name)
    loop
        perform pg_advisory_xact_lock(1885823606, hashtext(old));
        perform pgbus.generate(s.id) from pgbus.subscription s where s.name = old;
        update pgbus.subscription s set template = newest where s.name = old;
    end loop;
end
$function$;

-- Where there are roles, let them have what this release's functions want; at every installation.
create function pgbus.keep_roles() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    prefix text := (select r.prefix from pgbus.roles r);
begin
    if prefix is null then
        return;
    end if;
    perform pgbus.renew_subscriptions();
    perform pgbus.hand_over(prefix || '_owner');
    if not has_table_privilege(prefix || '_publisher', 'pgbus.stamp', 'select') then
        execute format('grant usage on schema pgbus to %I, %I',
            prefix || '_publisher', prefix || '_operator');
        execute format('grant select on pgbus.stamp to %I', prefix || '_publisher');
    end if;
    perform pgbus.grant_execute(d.function, prefix || '_' || d.kind) from pgbus.doors() d;
    perform pgbus.grant_subscription(s.id) from pgbus.subscription s;
end
$function$;

create function pgbus.make_role(p_name text, p_member_of text) returns setof text
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    if not exists (select from pg_roles r where r.rolname = p_name) then
        execute format('create role %I nologin', p_name);
        return next p_name;
    end if;
    if p_member_of is not null and not pg_has_role(p_name, p_member_of, 'usage') then
        execute format('grant %I to %I', p_member_of, p_name);
    end if;
end
$function$;

-- Create the roles that are missing, and return their names; idempotent. The caller must own pgbus
-- and pgmq (or be a member of their owner), own the database, and where a role is missing have
-- CREATEROLE. The roles cannot log in: grant them to those who do.
create function pgbus.make_roles(p_prefix text) returns setof text
language plpgsql set search_path = pg_catalog, pg_temp as $function$
declare
    owner text := p_prefix || '_owner';
    other text := (select r.prefix from pgbus.roles r where r.prefix <> p_prefix);
begin
    if p_prefix !~ '^[a-z][a-z0-9_]{0,7}$' then
        raise exception 'a prefix of roles is 1 to 8 of the characters a-z, 0-9 and _'
            using errcode = 'invalid_name';
    end if;
    if other is not null then
        raise exception 'the roles of this database begin with %', other
            using errcode = 'duplicate_object';
    end if;
    return query select pgbus.make_role(owner, null);
    return query select pgbus.make_role(p_prefix || '_operator', null);
    return query select pgbus.make_role(p_prefix || '_publisher', null);
    return query select pgbus.make_role(p_prefix || '_subscriber', p_prefix || '_publisher');
    if not has_database_privilege(owner, current_database(), 'create') then
        execute format('grant create on database %I to %I', current_database(), owner);
    end if;
    if not pg_has_role(owner, 'usage') then
        execute format('grant %I to %I', owner, current_user);
    end if;
    insert into pgbus.roles (prefix) values (p_prefix) on conflict do nothing;
    return query
        select m.made from pgbus.subscription s
        cross join lateral pgbus.make_role(
            pgbus.subscriber_role(s.name), p_prefix || '_subscriber') as m(made)
        order by s.id;
    perform pgbus.keep_roles();
end
$function$;

-- PostgreSQL lets everybody call a new function. It is time to be strict.
do $block$
declare
    door text;
begin
    for door in
        select distinct d.function from pgbus.doors() d
        where d.function not in ('declare', 'end_sessions')     -- these have their caller's rights
    loop
        execute format('alter function pgbus.%I security definer', door);
    end loop;
end
$block$;
revoke all on all functions in schema pgbus from public;
