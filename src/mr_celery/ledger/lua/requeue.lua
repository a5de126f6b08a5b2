-- claimed | sent | running -> claimed (attempt + 1): an operator wants the job to be started again.
-- A run that goes on has lost the job by this, and its worker gets wait_seconds to stop it.
-- It is not the job's fault: it may be lost as often afterwards as before.
-- Answers: the task id of the attempt that this ends, or false where there is none.
local wait_seconds, note = tonumber(ARGV[3]), ARGV[4]
local known = get('state', 'task', 'attempt', 'nonce')
local state = known[1]
if not (state == 'claimed' or state == 'sent' or state == 'running') then
  return false
end
tell('requeued', note)
redis.call('HINCRBY', record, 'max_attempts', 1)
begin_attempt(tonumber(known[3]) + 1, known[4])
move(state, 'claimed', state == 'running' and now + wait_seconds or now)
ring('claimed')
return known[2]
