-- The schemas of event types: what is published, what is accepted, and by whom.

-- What an event type means. Written once, by whoever comes first; a change wants a new version.
create table pgbus.event_type (
    topic text not null,
    version integer not null,
    name text not null,                 -- of the class
    key text,                           -- the field whose value orders the events
    fingerprint text not null,          -- equal where two schemas mean the same
    document json not null,             -- JSON Schema; json, because jsonb forgets the fields' order
    recorded_by text not null,          -- a service
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (topic, version)
);

-- Which services publish it. Written when a process first publishes a type, and once an hour.
create table pgbus.publisher (
    topic text not null,
    version integer not null,
    service text not null,
    service_version text not null,      -- '' where it says none
    host text not null,
    fingerprint text not null,
    downcasts integer[] not null,       -- the earlier versions that are sent along
    last_seen timestamptz not null,
    primary key (topic, version, service, service_version, host)
);

-- What a running worker's handlers decode. With the worker's row it lives, and is seen.
create table pgbus.accepted (
    worker bigint not null references pgbus.worker on delete cascade,
    subscription integer not null references pgbus.subscription on delete cascade,
    topic text not null,
    version integer not null,
    fingerprint text not null,
    document json not null,
    primary key (worker, subscription, topic, version)
);
create index accepted_subscription on pgbus.accepted (subscription);

alter table pgbus.worker add column service_version text not null default '';

-- Record event types; those that are known already stay as they are. Returns what is known of those
-- that differ, by their places in the arrays, from 1.
create function pgbus.record_types(
    p_service text, p_topics text[], p_versions integer[], p_names text[], p_keys text[],
    p_fingerprints text[], p_documents text[]
) returns table (n integer, key text, fingerprint text, document text, recorded_by text,
    recorded_at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
begin
    -- In one order, so that two services that start at once wait, and do not deadlock.
    insert into pgbus.event_type (topic, version, name, key, fingerprint, document, recorded_by)
    select x.topic, x.version, x.name, x.key, x.fingerprint, x.document::json, p_service
    from unnest(p_topics, p_versions, p_names, p_keys, p_fingerprints, p_documents)
        as x(topic, version, name, key, fingerprint, document)
    where not exists (
        select from pgbus.event_type t where t.topic = x.topic and t.version = x.version)
    order by x.topic, x.version
    on conflict do nothing;
    return query
        select x.n::integer, t.key, t.fingerprint, t.document::text, t.recorded_by, t.recorded_at
        from unnest(p_topics, p_versions, p_keys, p_fingerprints)
            with ordinality as x(topic, version, key, fingerprint, n)
        join pgbus.event_type t on t.topic = x.topic and t.version = x.version
        where t.fingerprint <> x.fingerprint or t.key is distinct from x.key
        order by x.n;
end
$function$;

-- Note that a service publishes a type.
create function pgbus.record_publisher(
    p_topic text, p_version integer, p_service text, p_service_version text, p_host text,
    p_fingerprint text, p_downcasts integer[]
) returns void
language sql set search_path = pg_catalog, pg_temp
begin atomic
    insert into pgbus.publisher
        (topic, version, service, service_version, host, fingerprint, downcasts, last_seen)
    values (p_topic, p_version, p_service, p_service_version, p_host, p_fingerprint, p_downcasts,
        clock_timestamp())
    on conflict (topic, version, service, service_version, host)
    do update set fingerprint = excluded.fingerprint, downcasts = excluded.downcasts,
        last_seen = excluded.last_seen;
end;

-- Note what a worker, just registered, accepts.
create function pgbus.accept(
    p_worker bigint, p_service_version text, p_subscriptions integer[], p_topics text[],
    p_versions integer[], p_fingerprints text[], p_documents text[]
) returns void
language sql set search_path = pg_catalog, pg_temp
begin atomic
    select pgbus.require_worker(p_worker);
    select pgbus.require_subscriptions(p_subscriptions);
    update pgbus.worker set service_version = p_service_version where id = p_worker;
    insert into pgbus.accepted (worker, subscription, topic, version, fingerprint, document)
    select p_worker, x.subscription, x.topic, x.version, x.fingerprint, x.document::json
    from unnest(p_subscriptions, p_topics, p_versions, p_fingerprints, p_documents)
        as x(subscription, topic, version, fingerprint, document);
end;

-- Every event type, or those of a topic.
create function pgbus.event_types(p_topic text default null)
returns table (topic text, version integer, name text, key text, fingerprint text, document text,
    recorded_by text, recorded_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select t.topic, t.version, t.name, t.key, t.fingerprint, t.document::text, t.recorded_by,
        t.recorded_at
    from pgbus.event_type t
    where p_topic is null or t.topic = p_topic
    order by t.topic collate "C", t.version;
end;

-- Who publishes what. `seen`: how long ago a process of it was last seen to publish the type.
create function pgbus.publishers()
returns table (topic text, version integer, service text, service_version text,
    downcasts integer[], hosts bigint, seen interval)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select p.topic, p.version, p.service, p.service_version, p.downcasts, count(*),
        clock_timestamp() - max(p.last_seen)
    from pgbus.publisher p
    group by p.topic, p.version, p.service, p.service_version, p.downcasts
    order by p.topic collate "C", p.version, p.service, p.service_version, p.downcasts;
end;

-- What live workers serve and accept: one row a worker and subscription. `accepted` is a JSON array
-- of objects; `seen`: how long ago the last heartbeat was.
create function pgbus.acceptors()
returns table (subscription text, service text, service_version text, host text, pid integer,
    patterns text[], types text[], any_type boolean, accepted text, seen interval)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select s.name, w.service, w.service_version, w.host, w.pid, d.patterns, d.types, d.any_type,
        coalesce((
            select json_agg(json_build_object('topic', a.topic, 'version', a.version,
                'fingerprint', a.fingerprint, 'document', a.document) order by a.topic, a.version)
            from pgbus.accepted a where a.worker = w.id and a.subscription = s.id), '[]')::text,
        clock_timestamp() - (w.expires_at - w.lease)
    from pgbus.worker w
    join pgbus.worker_subscription d on d.worker = w.id
    join pgbus.subscription s on s.id = d.subscription
    where w.dead_at is null and pgbus.ends_at(w) > clock_timestamp()
    order by s.name collate "C", w.service, w.service_version, w.host, w.pid;
end;

-- Forget a type, so that the next to start or publish records it anew. False where there is none.
create function pgbus.forget_type(p_topic text, p_version integer) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $function$
begin
    delete from pgbus.publisher where topic = p_topic and version = p_version;
    delete from pgbus.event_type where topic = p_topic and version = p_version;
    return found;
end
$function$;
