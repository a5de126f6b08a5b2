-- admitted -> claimed: the server gave us the job. The task id of its first attempt is written down
-- before anything is published; whoever finds the job due here publishes under that id.
-- The trace that it belongs to is kept with it, where there is one.
-- Answers: the task id, or false where it is not in that state.
local wait_seconds, trace = tonumber(ARGV[3]), ARGV[4]
local known = get('state', 'nonce')
if known[1] ~= 'admitted' then
  return false
end
begin_attempt(1, known[2])
if trace ~= '' then
  set('trace', trace)
end
move('admitted', 'claimed', now + wait_seconds)
tell('claimed', nil, 1)
count('claimed')
return task_id(1, known[2])
