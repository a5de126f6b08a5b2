-- finished -> closed: the job is terminal on the server. Any process may report it, for the current attempt.
--
-- Keys:    job:<id>, payload:<id> (deleted), finished, undelivered, ended:<how>; outcome:<id> and parts:<id>, kept for
--          keep_seconds (see adopt.lua)
-- ARGV:    prefix, id, task_id, how ('delivered' | 'superseded'), history, keep_seconds,
--          has_parts (1 | 0: neither artifacts nor reviews were delivered)
-- Returns: 1, or 0 if the job is not finished, or in another attempt
local task_id, how, history = ARGV[3], ARGV[4], ARGV[5]
local keep_seconds, has_parts = tonumber(ARGV[6]), ARGV[7] == '1'
local state, current_task_id, status, finished_at, attempt, workflow = get('state', 'task_id', 'status', 'finished_at',
  'attempt', 'workflow')
if state ~= 'finished' or current_task_id ~= task_id then
  return 0
end
local outcome = redis.call('HGET', payload, 'outcome')
local kept_milliseconds = how == 'delivered' and math.floor(keep_seconds * 1000)
local ending = how == 'superseded' and how or status or 'done'
end_job('finished', 'closed', attempt, workflow, ending, how, history, 'how', how)
if has_parts then
  drop_parts(kept_milliseconds)
end
observe('delivery', finished_at, 'deliveries:' .. how)
if kept_milliseconds and outcome then
  redis.call('SET', kept_outcome(), outcome, 'PX', kept_milliseconds)
end
return 1
