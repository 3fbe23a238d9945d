-- name: record
select n, key, fingerprint, document, recorded_by, recorded_at
from pgbus.record_types(
    %s, %b::text[], %s::integer[], %b::text[], %b::text[], %b::text[], %b::text[]
)

-- name: record_publisher
select pgbus.record_publisher(%s, %s, %s, %s, %s, %s, %s::integer[])

-- name: accept
select pgbus.accept(
    %s::bigint, %s, %s::integer[], %b::text[], %s::integer[], %b::text[], %b::text[]
)

-- name: event_types
select topic, version, name, key, fingerprint, document, recorded_by, recorded_at
from pgbus.event_types(%s)

-- name: publishers
select topic, version, service, service_version, downcasts, hosts, seen
from pgbus.publishers()

-- name: acceptors
select subscription, service, service_version, host, pid, patterns, types, any_type, accepted, seen
from pgbus.acceptors()

-- name: forget
select pgbus.forget_type(%s, %s)
