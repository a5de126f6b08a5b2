-- running | deferred -> claimed (attempt + 1), or -> finished if the job may not run again: the run was lost, or no
-- outcome came before the deadline.
-- The reaper passes no `retries`; then the lease or the deadline must have passed. A caller that saw the run's process
-- die passes the run's Celery retries and its holder.
--
-- After a job was handed over to a workflow, its members hold it (see lose_member.lua), and the end of its handler's
-- run no longer matters.
--
-- Keys:    job:<id> (losses, reason), payload:<id> (outcome), running, deferred, claimed, finished, stats
-- ARGV:    prefix, id, task_id, retries (or ''), holder (or ''), why, and two outcomes: if the handler must not run
--          twice, and if this was the last attempt; task_name (of the message; '': none)
-- Returns: 'again' | 'failed' | 'kept' (the run continues, or is over)
local task_id, retries, holder, why = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local must_not_outcome, too_often_outcome = ARGV[7], ARGV[8]
local state, current_task_id, task_name, current_retries, deliverer, current_holder, handed_over = get(
  'state', 'task_id', 'task_name', 'retries', 'deliverer', 'holder', 'handed_over')
local lease_expired = retries == ''
if current_task_id ~= task_id or (retries ~= '' and current_retries ~= retries)
    or (holder ~= '' and current_holder ~= holder) or is_other_task(ARGV[9], task_name) then
  return 'kept'
end
if not lease_expired and state == 'finished' and deliverer == 'run' then
  -- It died while it delivered. The outcome is recorded, and a courier need not wait.
  end_delivery(now)
  notify('deliver')
  return 'kept'
end
if handed_over or (state ~= 'running' and not (state == 'deferred' and lease_expired)) then
  return 'kept'
end
if lease_expired and tonumber(redis.call('ZSCORE', prefix .. state, id) or '+inf') > now then
  return 'kept'
end
local how = state == 'deferred' and 'deadline' or lease_expired and 'lease' or 'process'
return lose_attempt(state, how, why, must_not_outcome, too_often_outcome)
