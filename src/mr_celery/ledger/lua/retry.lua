-- running -> sent: the handler asked Celery for a retry, or gave its message back to the broker; the same attempt starts
-- again from a message with next_retries Celery retries.
-- Answers: 1, or 0 where the run does not hold the lease any more.
local task, run, next_retries, wait_seconds = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local known = get('state', 'task', 'run')
if known[1] ~= 'running' or known[2] ~= task or known[3] ~= run then
  return 0
end
set('retries', next_retries)
redis.call('HDEL', record, 'held') -- no worker has told yet that it has the new message
move('running', 'sent', now + wait_seconds)
tell('retry', 'its handler asked to start again')
return 1
