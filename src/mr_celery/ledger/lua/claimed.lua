-- admitted -> claimed: the server gave us the job. The task id of the first attempt is recorded before anything is
-- published; every later publish of this attempt uses it.
--
-- Keys:    job:<id> (state, nonce, attempt, task_id, trace), admitted, claimed, waiting
-- ARGV:    prefix, id, wait_seconds (until the reaper sends it), trace (or '')
-- Returns: the task id, or false if the job is not admitted
local wait_seconds, trace = tonumber(ARGV[3]), ARGV[4]
local state, nonce = get('state', 'nonce')
if state ~= 'admitted' then
  return false
end
move('admitted', 'claimed', now + wait_seconds, attempt_fields(1, nonce))
if trace ~= '' then
  set('trace', trace)
end
add_event('claimed', nil, 1)
count('claimed')
return task_id_of(1, nonce)
