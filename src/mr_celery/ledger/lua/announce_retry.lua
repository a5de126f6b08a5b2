-- running -> running: the run is about to publish its Celery retry, which may start before the run has ended.
--
-- Keys:    job:<id> (next_retries)
-- ARGV:    prefix, id, task_id, run (its nonce), next_retries
-- Returns: 1, or 0 if the run does not hold the lease any more
local task_id, run, next_retries = ARGV[3], ARGV[4], ARGV[5]
local state, current_task_id, current_run = get('state', 'task_id', 'run')
if state ~= 'running' or current_task_id ~= task_id or current_run ~= run then
  return 0
end
set('next_retries', next_retries)
return 1
