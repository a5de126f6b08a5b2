-- claimed | sent | running | deferred -> claimed (attempt + 1): an operator wants the job to start again.
-- A run in progress loses the job, and its worker gets wait_seconds to stop it. The attempt does not count against the
-- job: max_attempts grows by one.
--
-- Keys:    job:<id> (attempt, task_id, max_attempts), the sets of the states
-- ARGV:    prefix, id, wait_seconds, note
-- Returns: the task id of the attempt that this ends, or false if there is none
local wait_seconds, note = tonumber(ARGV[3]), ARGV[4]
local state, task_id, attempt, nonce = get('state', 'task_id', 'attempt', 'nonce')
if not (state == 'claimed' or state == 'sent' or state == 'running' or state == 'deferred') then
  return false
end
add_event('requeued', note)
redis.call('HINCRBY', record, 'max_attempts', 1)
begin_attempt(tonumber(attempt or 0) + 1, nonce)
take_slot()
move(state, 'claimed', state == 'running' and now + wait_seconds or now)
notify('claimed')
return task_id
