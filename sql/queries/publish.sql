-- name: publish
select generation, queues, direct, duplicates
from pgbus.publish(
    %s::uuid, %b::text[], %b::text[], %s::integer[], %b::text[], %b::text[],
    %s::uuid[], %s::interval, %s::timestamptz[], %s::double precision[], %s
)

-- name: put
-- Null where what the publisher remembers holds no longer.
select case when r.generation = %(generation)s::uuid then {calls} end from pgbus.stamp r

-- name: put_new
-- The same for an event with an id that its publisher gave; -1 where that is known already.
select case when r.generation = %(generation)s::uuid
    then case when pgbus.remember(%(id)s::uuid, %(window)s::interval) then {calls} else -1 end end
from pgbus.stamp r

-- name: put_call
{function}({bodies}::text[], {headers}::text[])
