-- claimed | sent | running | deferred -> claimed (attempt + 1): an operator wants the job to start again.
-- A run in progress loses the job, and its worker gets wait_seconds to stop it. The attempt does not count against the
-- job: max_attempts grows by one.
--
-- If the answer was lost, the step is repeated: the next attempt has begun, and that is what the caller asked for.
--
-- Keys:    job:<id> (attempt, task_id, max_attempts, on_lost), the sets of the states
-- ARGV:    prefix, id, task_id (of the attempt that the operator saw), wait_seconds, force (1: also a job that may be
--          running and must not run twice), note
-- Returns: 'requeued' | 'refused' (it runs or is deferred, and must not run twice) | 'kept' (it is over, or another
--          attempt has begun)
local task_id, wait_seconds, force, note = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local state, current_task_id, attempt, nonce, on_lost = get('state', 'task_id', 'attempt', 'nonce', 'on_lost')
local waits = state == 'claimed' or state == 'sent'
local may_run = state == 'running' or state == 'deferred'
if not (waits or may_run) then
  return 'kept'
end
attempt = tonumber(attempt or 0)
if current_task_id ~= task_id then
  return task_id == task_id_of(attempt - 1, nonce) and 'requeued' or 'kept'
end
if may_run and on_lost == 'fail' and force == '0' then
  return 'refused'
end
add_event('requeued', note)
redis.call('HINCRBY', record, 'max_attempts', 1)
begin_attempt(attempt + 1, nonce)
take_slot()
move(state, 'claimed', state == 'running' and now + wait_seconds or now)
notify('claimed')
return 'requeued'
