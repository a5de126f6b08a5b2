-- running -> running: the run hands its job over to a workflow. Its first messages are published next.
-- Until they are (see handed_over.lua), the run still holds the job.
--
-- Keys:    job:<id> (workflow), members:<id>, unfinished:<id>
-- ARGV:    prefix, id, task_id, retries, run (its nonce), final (the final member's task id), lease, note, then task id,
--          task name, queue, and seconds until it is due (its countdown) of each of the first members
-- Returns: 1, or 0 if the run does not hold the job any more
local task_id, retries, run, final, lease, note = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local state, current_task_id, current_retries, current_run, workflow = get(
  'state', 'task_id', 'retries', 'run', 'workflow')
if state ~= 'running' or current_task_id ~= task_id or tonumber(current_retries or 0) ~= tonumber(retries)
    or current_run ~= run then
  return 0
elseif workflow == final then
  return 1
end
redis.call('UNLINK', members(), unfinished())
redis.call('HDEL', record, 'handed_over')
set('workflow', final)
for index = 9, #ARGV, 4 do
  local due_at = now + tonumber(ARGV[index + 3])
  write_member(ARGV[index], new_member(ARGV[index + 1], ARGV[index + 2]), 'sent', due_at + lease, due_at)
end
add_event('workflow', note)
return 1
