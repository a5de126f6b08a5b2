-- Reads how many jobs may still be deferred: those in slots whose task has deferred jobs before.
--
-- Keys:    deferring, admitted, claimed, sent, running, job:<id>
-- ARGV:    prefix, (unused)
-- Returns: the number of these jobs, and the names of these tasks
local tasks = redis.call('SMEMBERS', prefix .. 'deferring')
local defers, jobs = {}, 0
for _, task_name in ipairs(tasks) do
  defers[task_name] = true
end
if #tasks > 0 then
  for _, state in ipairs({'admitted', 'claimed', 'sent', 'running'}) do
    for _, job in ipairs(redis.call('ZRANGE', prefix .. state, 0, -1)) do
      select_job(job)
      if defers[get('task_name') or ''] then
        jobs = jobs + 1
      end
    end
  end
end
return {jobs, tasks}
