-- finished -> finished: the run of a job that was completed before its handler returned ends the wait for it (see
-- complete.lua), and adds its attachments to the outcome.
--
-- Keys:    job:<id> (deliverer, amended), payload:<id> (outcome, blob:<index>), finished
-- ARGV:    prefix, id, task_id, run (its nonce), outcome ('': unchanged), the index of the first added blob, then blobs
-- Returns: 1 (also if the same run asks again), or 0 if the delivery has begun without it
local task_id, run, outcome, first = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local state, current_task_id, current_run, finished_by, deliverer, amended = get(
  'state', 'task_id', 'run', 'finished_by', 'deliverer', 'amended')
if current_task_id == task_id and amended == run then
  return 1 -- the first answer was lost
end
if state ~= 'finished' or current_task_id ~= task_id or current_run ~= run or finished_by ~= 'ref'
    or deliverer ~= 'run' then
  return 0
end
if outcome ~= '' then
  redis.call('HSET', payload, 'outcome', outcome)
  for index = 7, #ARGV do
    redis.call('HSET', payload, 'blob:' .. (first + index - 7), ARGV[index])
  end
end
set('amended', run)
end_delivery(now)
notify('deliver')
return 1
