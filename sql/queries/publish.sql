-- name: publish
select generation, queues, duplicates
from pgbus.publish(
    %s::uuid, %b::text[], %b::text[], %s::integer[], %b::text[], %b::text[],
    %s::uuid[], %s::interval, %s::timestamptz[], %s::double precision[], %s
)
