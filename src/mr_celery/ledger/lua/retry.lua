-- running -> sent: the handler asked Celery for a retry, or gave its message back to the broker. The same attempt
-- starts again from a message with next_retries Celery retries.
--
-- Keys:    job:<id> (retries, received, own), running, sent, waiting
-- ARGV:    prefix, id, task_id, run (its nonce), next_retries, wait_seconds, own (1: only the handler can make that
--          message, since it has arguments of the handler; 0: it has none; '': it is the same message again)
-- Returns: 1, or 0 if the run does not hold the lease any more
local task_id, run, next_retries, wait_seconds, own = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local state, current_task_id, current_run = get('state', 'task_id', 'run')
if state ~= 'running' or current_task_id ~= task_id or current_run ~= run then
  return 0
end
set('retries', next_retries)
if own == '1' then
  set('own', 1)
elseif own == '0' then
  redis.call('HDEL', record, 'own')
end
redis.call('HDEL', record, 'received') -- no worker has reported the new message yet
move('running', 'sent', now + wait_seconds)
add_event('retry', 'the handler asked to start again')
return 1
