-- admitted -> claimed: the server gave us the job. The task id of its first attempt is written down
-- before anything is published; whoever finds the job due here publishes under that id.
-- Answers: the task id, or false where it is not in that state.
local wait_seconds = tonumber(ARGV[3])
local known = get('state', 'nonce')
if known[1] ~= 'admitted' then
  return false
end
begin_attempt(1, known[2])
move('admitted', 'claimed', now + wait_seconds)
tell('claimed')
count('claimed')
return task_id(1, known[2])
