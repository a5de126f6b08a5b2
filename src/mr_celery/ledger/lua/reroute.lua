-- claimed -> claimed: the attempt's message goes to another queue than the one for which the job was claimed. The job's
-- slot moves with it.
--
-- Keys:    job:<id> (state, task_id, queue), load:<queue> of both queues
-- ARGV:    prefix, id, task_id, queue
-- Returns: 1, or 0 if the attempt is not waiting to be sent
local task_id, queue = ARGV[3], ARGV[4]
local state, current_task_id = get('state', 'task_id')
if state ~= 'claimed' or current_task_id ~= task_id then
  return 0
end
free_slot()
set('queue', queue)
redis.call('SADD', prefix .. 'load:' .. queue, id)
return 1
