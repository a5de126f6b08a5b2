-- claimed | sent | running | deferred | finished -> aborted: an operator ended the job on the server.
--
-- Keys:    job:<id> (state, task_id, why), payload:<id> (deleted), the set of the state, ended:aborted, load:<queue>
-- ARGV:    prefix, id, why, history (seconds that the record is kept)
-- Returns: the task id of the aborted attempt, or false if there is nothing to abort
local why, history = ARGV[3], ARGV[4]
local state, task_id, attempt, workflow = get('state', 'task_id', 'attempt', 'workflow')
if not (state == 'claimed' or state == 'sent' or state == 'running' or state == 'deferred' or state == 'finished') then
  return false
end
end_job(state, 'aborted', attempt, workflow, 'aborted', why, history, 'why', why)
drop_parts()
count('aborted')
notify('aborted')
return task_id
