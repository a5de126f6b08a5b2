-- running -> finished: records the outcome of the run that holds the lease, and of no other. If the job's record was
-- lost and adopted, the outcome of the earlier run counts until a new attempt is sent.
-- The run delivers the outcome itself, for deliver_seconds and while its worker renews it; then the courier does.
--
-- Keys:    job:<id> (finished_by, deliveries, deliverer), payload:<id> (outcome, blob:<index>), running, finished
-- ARGV:    prefix, id, task_id, retries, status, outcome, deliver_seconds, history, reason (or ''), then the
--          blobs
-- Returns: 'finished'    recorded (also if the same run asks again)
--          'taken_over'  recorded, and a courier delivers it
--          'kept'        the record is lost: the outcome waits until the server lists the job as running (adopt.lua)
--          'completed'   the outcome came before through the reference (see complete.lua)
--          otherwise the state that prevents it
local task_id, retries, status, outcome = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local deliver_seconds, history, reason = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local state, current_task_id, current_retries, finished_by, deliverer,
  running_at, attempt, adopted, run = get('state', 'task_id', 'retries', 'finished_by', 'deliverer',
  'running_at', 'attempt', 'adopted', 'run')

local function keep_blobs()
  for index = 10, #ARGV do
    redis.call('HSET', payload, 'blob:' .. (index - 10), ARGV[index])
  end
end

if not state then
  redis.call('HSET', payload, 'outcome', outcome, 'outcome_status', status, 'outcome_task', task_id)
  keep_blobs()
  redis.call('PEXPIRE', payload, math.floor(history * 1000))
  return 'kept'
elseif current_task_id ~= task_id and awaits_lost_run(state, adopted, run) then
  keep_blobs()
  local its_attempt = string.match(task_id, '%-(%d+)%-[^-]*$') or 1
  set('task_id', task_id, 'attempt', its_attempt, 'finished_by', retries, 'deliveries', 0)
  record_outcome(state, status, outcome, now, reason)
  add_event('finished', described(status, reason))
  return 'taken_over'
elseif current_task_id ~= task_id or (state == 'running' and tonumber(current_retries) ~= tonumber(retries)) then
  return 'superseded'
elseif (state == 'finished' or state == 'closed') and finished_by == 'ref' then
  if deliverer == 'run' then -- nothing is added to it
    end_delivery(now)
    notify('deliver')
  end
  return 'completed'
elseif state == 'finished' and finished_by ~= retries then
  return 'superseded' -- another outcome is recorded: a time limit's, or an operator's
elseif state == 'finished' then
  return deliverer == 'run' and 'finished' or 'taken_over'
elseif state ~= 'running' then
  return state
end
keep_blobs()
if deliver_seconds > 0 then
  record_outcome('running', status, outcome, now + deliver_seconds, reason, running_at,
    'finished_by', retries, 'deliveries', 1, 'deliverer', 'run')
else
  record_outcome('running', status, outcome, now, reason, running_at, 'finished_by', retries, 'deliveries', 0)
end
add_event('finished', described(status, reason), attempt)
return 'finished'
