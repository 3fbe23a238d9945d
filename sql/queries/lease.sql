-- name: take
select lane, msg_id, available, enqueued_at, body, headers, failures, deaths, suspect
from {take}(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
)

-- name: poll
select subscription, ready, next_due, asleep from pgbus.poll(%s::integer[], %s::integer[])

-- name: settle
select {settle}(
    %s::bigint, %s::bigint[], %s::bigint[], %s::boolean[],
    %s::bigint[], %s::bigint[],
    %s::bigint[], %s::bigint[], %s::double precision[], %s::text[],
    %s::bigint[], %s::bigint[], %s::text[],
    %s, %s, %s
)
