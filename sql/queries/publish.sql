-- name: publish
select generation, queues, direct, duplicates
from pgbus.publish(
    %s::uuid, %b::text[], %b::text[], %s::integer[], %b::text[], %b::text[],
    %s::uuid[], %s::interval, %s::timestamptz[], %s::double precision[], %s
)

-- name: put
-- Null where what the publisher remembers holds no longer.
select case when r.generation = %(generation)s::uuid then {calls} end from pgbus.stamp r

-- name: put_call
{function}({bodies}::text[], {headers}::text[])
