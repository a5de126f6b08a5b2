-- running -> running: the secret of the attempt, with which any process may end the job (see complete.lua).
--
-- Keys:    job:<id> (secret, shaped)
-- ARGV:    prefix, id, task_id, secret (becomes the attempt's if it has none), shaped (1 or 0)
-- Returns: the attempt's number and its secret, or {} if the attempt is over
local task_id, secret, shaped = ARGV[3], ARGV[4], ARGV[5]
local state, current_task_id, attempt = get('state', 'task_id', 'attempt')
if not state or state == 'closed' or state == 'aborted' or current_task_id ~= task_id then
  return {}
end
redis.call('HSETNX', record, 'secret', secret)
set('shaped', shaped)
return {attempt, get('secret')}
