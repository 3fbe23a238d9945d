-- name: begin
begin deferrable

-- name: commit
commit

-- name: commit_and_begin
commit;
begin deferrable

-- name: acknowledge
select {acknowledge}('%d', '%d', '%d', %s, '%d', %s)
