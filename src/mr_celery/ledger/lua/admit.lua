-- (nothing) -> admitted: recorded before the claim requests, so that a crash in between is found. Each job on its own.
--
-- Keys:    of each job: job:<id> (the route), payload:<id> (job), dropped:<id>; admitted, load:<queue>, paused
-- ARGV:    prefix, (unused), total_limit, asked_at, settle_seconds; then for each job: id, job, capability,
--          task_name, queue, nonce, max_attempts, on_lost, queue_limit. A limit below 0 means no limit
-- Returns: for each job:
--          'admitted' claim it
--          'full'     no slot is free, or claiming is paused
--          'known'    it is in flight, or ended after the inbox was asked
--          'again'    it is in flight, and the server lists it as pending again: claim it, do not send it
local total_limit, asked_at, settle_seconds = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local paused = redis.call('EXISTS', prefix .. 'paused') == 1
local slots, slots_of = total_limit >= 0 and slots_taken() or 0, {}

local function admit(job, capability, task_name, queue, nonce, max_attempts, on_lost, queue_limit)
  local state, claimed_at, ended_at, ending = get('state', 'claimed_at', 'ended_at', 'ending')
  local requeued = state == 'closed' or state == 'aborted'
  if requeued then
    if tonumber(ended_at or 0) >= asked_at then
      return 'known'
    end
  elseif state then
    if state == 'admitted' and not redis.call('ZSCORE', prefix .. 'admitted', id) then
      mend({}, settle_seconds) -- otherwise no check would find it
    end
    if state == 'admitted' or tonumber(claimed_at or 0) >= asked_at then
      return 'known'
    end
    set('claimed_at', now_stamp)
    add_event('pending', 'pending on the server again: claimed again, not sent again')
    return 'again'
  end
  if not state and has_outcome() then
    -- The record is lost, the outcome is not, and the server has put the job back: claim it again and deliver.
    mend({}, settle_seconds)
    set('claimed_at', now_stamp)
    return 'again'
  end
  slots_of[queue] = slots_of[queue] or (queue_limit >= 0 and redis.call('SCARD', prefix .. 'load:' .. queue) or 0)
  if paused or is_full(slots, total_limit) or is_full(slots_of[queue], queue_limit) then
    return 'full'
  end
  slots, slots_of[queue] = slots + 1, slots_of[queue] + 1
  redis.call('SADD', prefix .. 'load:' .. queue, id) -- the first write: if the memory is full, Redis refuses this one
  forget(ending)
  redis.call('HSET', payload, 'job', job)
  if on_lost == 'fail' then
    redis.call('DEL', prefix .. 'dropped:' .. id)
  end
  move(nil, 'admitted', now + settle_seconds, 'task_name', task_name, 'queue', queue, 'nonce', nonce,
    'max_attempts', max_attempts, 'on_lost', on_lost, 'capability', bounded(capability))
  add_event('admitted', queue, 0)
  return 'admitted'
end

local answers = {}
for place = 6, #ARGV, 9 do
  select_job(ARGV[place])
  answers[#answers + 1] = admit(
    ARGV[place + 1], ARGV[place + 2], ARGV[place + 3], ARGV[place + 4], ARGV[place + 5], ARGV[place + 6],
    ARGV[place + 7], tonumber(ARGV[place + 8])
  )
end
return answers
