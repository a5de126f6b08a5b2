-- running -> sent: the handler asked Celery for a retry; the same attempt starts again from a new message.
-- Answers: 1, or 0 where the run does not hold the lease any more.
local task, retries, wait_seconds = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local known = get('state', 'task', 'retries')
if known[1] ~= 'running' or known[2] ~= task or tonumber(known[3]) ~= retries then
  return 0
end
set('retries', retries + 1)
move('running', 'sent', now + wait_seconds)
return 1
