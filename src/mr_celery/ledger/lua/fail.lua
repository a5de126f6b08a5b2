-- claimed | sent | running | deferred -> finished: the attempt ended outside of its handler (hard time limit, revoked,
-- expired, refused by the worker, failed by an operator).
--
-- After a job was handed over to a workflow, the end of its handler's run no longer ends the job. A caller that names
-- no run (empty `retries`) still can.
--
-- Keys:    job:<id> (state, task_id, retries, holder, status, handed_over), payload:<id> (outcome), the sets of the
--          states
-- ARGV:    prefix, id, task_id, unstarted (1: one message did not start; a run of another copy is kept), retries and
--          holder (of the run that ended; '': any), task_name (of the message; '': none), status, outcome, reason
-- Returns: 1, or 0 if the attempt is over, or another run has it
local task_id, unstarted, retries, holder = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local task_name, status, outcome, reason = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local state, current_task_id, current_task_name, current_retries, current_holder, handed_over = get(
  'state', 'task_id', 'task_name', 'retries', 'holder', 'handed_over')
if current_task_id ~= task_id or (retries ~= '' and current_retries ~= retries)
    or is_other_task(task_name, current_task_name) then
  return 0
end
local waits = state == 'claimed' or state == 'sent'
local runs_here = state == 'running' and unstarted == '0' and (holder == '' or current_holder == holder)
    and not (handed_over and retries ~= '')
local awaited = state == 'deferred' and unstarted == '0' and retries == '' and holder == '' -- its run is over
if not (waits or runs_here or awaited) then
  return 0
end
record_outcome(state, status, outcome, now, reason)
add_event('finished', described(status, reason))
return 1
