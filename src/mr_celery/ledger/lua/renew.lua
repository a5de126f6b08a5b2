-- sent -> sent, running -> running, finished -> finished: a live worker renews the messages that it has: those that
-- wait in it, those that it runs, and those whose outcome it delivers.
-- Only the worker that started a run renews it: another one may have a copy of the message. A job that was adopted
-- waits while a worker has a message of the lost record.
--
-- Keys:    of each job: job:<id> (state, task_id, deliverer, holder, finished_by, adopted, run, received); sent,
--          running, finished
-- ARGV:    prefix, (unused), holder, lease, wait_seconds, then id and task_id of each message
-- Returns: id and state of those that the worker has lost, in one list. 'ended': an operator or a time limit ended it
local holder, lease, wait_seconds = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lost = {}

local function lose(job, why)
  lost[#lost + 1] = job
  lost[#lost + 1] = why
end

for index = 6, #ARGV, 2 do
  local job, task_id = ARGV[index], ARGV[index + 1]
  local state, current_task_id, deliverer, current_holder, finished_by, adopted, run = unpack(redis.call('HMGET',
    prefix .. 'job:' .. job, 'state', 'task_id', 'deliverer', 'holder', 'finished_by', 'adopted', 'run'))
  local started_here = current_holder == holder
  if current_task_id ~= task_id and awaits_lost_run(state, adopted, run) then
    redis.call('ZADD', prefix .. state, 'GT', stamp(now + lease), job)
  elseif current_task_id ~= task_id or not state then
    lose(job, state and 'superseded' or 'unknown')
  elseif (state == 'finished' or state == 'closed') and not finished_by then
    lose(job, 'ended')
  elseif state == 'claimed' or state == 'sent' then
    if state == 'sent' then
      redis.call('ZADD', prefix .. 'sent', 'GT', stamp(now + wait_seconds), job)
    end
    redis.call('HSET', prefix .. 'job:' .. job, 'received', 1)
  elseif state == 'running' then
    if started_here then
      redis.call('ZADD', prefix .. 'running', stamp(now + lease), job)
    end
  elseif state == 'finished' then
    if deliverer == 'run' and started_here and finished_by ~= 'ref' then
      redis.call('ZADD', prefix .. 'finished', stamp(now + lease), job)
    end
  else
    lose(job, state)
  end
end
return lost
