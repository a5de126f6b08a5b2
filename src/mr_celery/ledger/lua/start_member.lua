-- running -> running: the fence of a member. Exactly one of its messages passes it, and gets the job.
-- The message must be the one that was recorded before it was published (see hand_over.lua and member_sent.lua): with the
-- same task and number of Celery retries. If the first answer to a run was lost, the same run gets the same answer again.
-- If the members were lost, none starts, and the job begins its next attempt.
--
-- Keys:    job:<id>, payload:<id> (job), members:<id>, unfinished:<id>, reached (see note_progress)
-- ARGV:    prefix, id, task_id, member_id, task_name, retries, node, holder, lease, run (a nonce)
-- Returns: {'started', job, attempt, trace or '', Celery retries and nonce of the job's run, the handler's task name, the
--          final member's task id}, or {what prevents it}
local task_id, member_id, name, retries = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local node, holder, lease, run = ARGV[7], ARGV[8], tonumber(ARGV[9]), ARGV[10]
local refusal = not_in_workflow(task_id)
if refusal then
  return {refusal}
end
local member = read_member(member_id)
if not member or (retries >= member.retries and not is_message_of(member, name, retries)) then
  return {'unrecorded'}
end
local state = member.state
local asks_again = state == 'running' and member.run == run
local waits = (state == 'sent' or state == 'received') and retries == member.retries
if not (asks_again or waits) then
  return {state == 'running' and 'running' or 'over'}
end
local job = redis.call('HGET', payload, 'job')
if not job then
  return {'incomplete'}
end
local attempt, trace, job_retries, job_run, task_name, final = get('attempt', 'trace', 'retries', 'run', 'task_name',
  'workflow')
if state == 'sent' and member.queue ~= '' then
  note_progress(member.queue, member.since)
end
member.holder, member.run, member.node = holder, run, node
write_member(member_id, member, 'running', now + lease)
return {'started', job, attempt or 1, trace or '', job_retries or 0, job_run or '', task_name or '', final}
