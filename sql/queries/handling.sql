-- name: begin
begin deferrable

-- name: roll_back
rollback

-- name: commit
commit

-- name: commit_and_begin
commit;
begin deferrable

-- name: acknowledge
select {acknowledge}('%d', '%d', '%d', %s, '%d', %s)
