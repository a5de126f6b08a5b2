-- claimed | sent -> running: the fence. Exactly one message of an attempt passes it and gets the job.
-- running -> running: the retry that a run has announced takes over from it (see announce_retry.lua).
-- claimed | sent | running -> claimed: the job's payload is lost, so nothing can start. It is sent again once the
-- server has listed the job (see adopt.lua).
--
-- The message must be the recorded one: with the task and the number of Celery retries of the record. If the first
-- answer to a run was lost, the same run gets the same answer again.
--
-- Keys:    job:<id> (task_name, retries, next_retries, node, holder, run), payload:<id> (job), the sets of the states,
--          stats; reached, a hash: <queue>:sent, the newest sending time of a message that was started, and <queue>:at,
--          when one was started
-- ARGV:    prefix, id, task_id, retries, node, holder, lease, run (a nonce), task_name
-- Returns: {'started', job, attempt, trace or ''}, or {the state that prevents it}; 'unknown': no record;
--          'superseded': another attempt is the current one; 'unrecorded': the message is for another task, or has
--          another number of retries; 'incomplete': the job's payload is lost

local task_id, retries, node, holder = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local lease, run, task_name = tonumber(ARGV[7]), ARGV[8], ARGV[9]
local state, current_task_id, current_task_name, current_retries, next_retries, attempt, current_run, trace, queue, copies,
  admitted_at, claimed_at, sent_at, running_at = get('state', 'task_id', 'task_name', 'retries', 'next_retries',
  'attempt', 'run', 'trace', 'queue', 'copies', 'admitted_at', 'claimed_at', 'sent_at', 'running_at')
if not state then
  return {'unknown'}
elseif current_task_id ~= task_id then
  return {'superseded'}
elseif is_other_task(task_name, current_task_name) then
  return {'unrecorded'}
end
current_retries = tonumber(current_retries or 0)
local asks_again = state == 'running' and current_run == run
local waits = (state == 'claimed' or state == 'sent') and retries == current_retries
local takes_over = state == 'running' and retries > current_retries and retries == tonumber(next_retries or 0)
if not (waits or takes_over or asks_again) then
  local may_run = state == 'claimed' or state == 'sent' or state == 'running'
  return {may_run and retries > current_retries and 'unrecorded' or state}
end
local job = redis.call('HGET', payload, 'job')
if not job then
  move(state, 'claimed', now + lease)
  add_event('unstarted', 'the job itself was lost', attempt)
  return {'incomplete'}
end
move(state, 'running', now + lease, 'retries', retries, 'node', node, 'holder', holder, 'run', run)
if waits then
  local sent_once = not running_at and not copies
  note_progress(queue or '', sent_once and (state == 'sent' and sent_at or claimed_at))
end
if not asks_again then
  add_event('started', node, attempt)
  if admitted_at and not running_at then
    observe('pickup', admitted_at)
  end
end
return {'started', job, attempt or 1, trace or ''}
