-- The tables of pgbus. They are private: functions are the contract.
-- All times are the server's; nothing here trusts a client's clock.

-- One durable queue a subscription; pgmq owns the queue's table, pgbus what follows.
create table pgbus.subscription (
    id integer generated always as identity primary key,
    name text not null unique,
    ordered boolean not null,           -- false: every event is a lane of its own
    park boolean not null,              -- a key with a dead letter waits behind it
    template integer not null default 0, -- the newest migration when its functions were last made
    created_at timestamptz not null default clock_timestamp()
);

-- The rows of pgmq.topic_bindings that pgbus made, and may therefore remove.
create table pgbus.binding (
    subscription integer not null references pgbus.subscription on delete cascade,
    pattern text not null,              -- as pgmq has it: one expansion of a pattern
    primary key (subscription, pattern)
);

-- Changes with every change of a binding; what clients remember of routes is stamped with it.
-- A random value, not a counter: a counter repeats itself after a failover to an older state.
create table pgbus.routing (
    only_row boolean primary key default true check (only_row),
    generation uuid not null
);
insert into pgbus.routing (generation) values (gen_random_uuid());

-- One row a running process, under an id that is random for every start.
-- No index on expires_at: heartbeats stay heap-only updates.
create table pgbus.worker (
    id bigint primary key,
    service text not null,
    host text not null,
    pid integer not null,
    lease interval not null,
    started_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    dead_at timestamptz                 -- set once, by the reaper; death is a fact, not a comparison
) with (fillfactor = 50);

create table pgbus.worker_subscription (
    worker bigint not null references pgbus.worker on delete cascade,
    subscription integer not null references pgbus.subscription on delete cascade,
    patterns text[] not null,           -- the expansions it declares
    types text[] not null,              -- 'topic@version' of every event type it can decode, and
                                        -- 'topic@' where it takes events that say no version
    any_type boolean not null,          -- it has a handler for everything else, too
    primary key (worker, subscription)
);

-- Who may handle a lane now. The fence is equality of (worker, token): tokens are not ordered.
-- A row exists while, and only while, the lane is leased. No foreign keys: this is the hot path.
create table pgbus.lease (
    subscription integer not null,
    lane bigint not null,
    worker bigint not null,
    token bigint not null,              -- one for every take of a worker
    quantity integer not null,          -- how many events of the lane were handed out at most
    suspect bigint,                     -- the one event handed out alone, after a worker's death
    primary key (subscription, lane)
) with (
    vacuum_truncate = off,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 10000
);

-- What went wrong with an event so far; only troubled events have a row.
create table pgbus.attempt (
    subscription integer not null,
    msg_id bigint not null,
    failures integer not null default 0, -- its handler raised
    deaths integer not null default 0,   -- its worker died while it was the only suspect
    suspected integer not null default 0, -- its worker died while it was one of many
    releases integer not null default 0, -- a shutdown, or others of its batch, cut it short; never
                                         -- counted against it
    first_at timestamptz not null default clock_timestamp(),
    primary key (subscription, msg_id)
) with (fillfactor = 70);

-- Delayed events wait here, so that they neither block their key nor lengthen the walk.
create table pgbus.scheduled (
    id bigint generated always as identity primary key,
    due_at timestamptz not null,
    queues text[] not null,
    body jsonb not null,
    headers jsonb not null
);
create index scheduled_due on pgbus.scheduled (due_at, id);

-- Ids that callers gave, each for as long as the bus that stored it was asked to remember it.
create table pgbus.published (
    id uuid primary key,
    forget_at timestamptz not null
);
create index published_forget_at on pgbus.published using brin (forget_at);

-- Temporary queues of `pgbus tail`, called pgbus_tail_<id in 8 hexadecimal digits>: they count in
-- nobody's receipt, and go with their session, which holds the advisory lock (1885823604, id). The
-- lock and not the session's backend: only some roles may see when another role's backend started.
create table pgbus.tail (
    id integer primary key,             -- random
    started_at timestamptz not null default clock_timestamp()
);
