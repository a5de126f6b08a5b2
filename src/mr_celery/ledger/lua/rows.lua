-- Reads where some jobs are listed, and the outline of their records. Each job's row is consistent.
--
-- Keys:    of each job: job:<id>; the sets of the states, load:<queue>
-- ARGV:    prefix, (unused), number of queues, the queues whose slots are checked, then ids
-- Returns: for each job {the states in whose sets it is}, {the queues of which it has a slot}, {state, queue,
--          deliveries, why, seconds since it came to that state}
local first = 4 + tonumber(ARGV[3])
local answer = {}
for index = first, #ARGV do
  local job = ARGV[index]
  local its_record = prefix .. 'job:' .. job
  local state, queue, deliveries, why = unpack(redis.call('HMGET', its_record, 'state', 'queue', 'deliveries', 'why'))
  local sets, slots, queues = {}, {}, {}
  for _, each in ipairs({'admitted', 'claimed', 'sent', 'running', 'deferred', 'finished'}) do
    if redis.call('ZSCORE', prefix .. each, job) then
      sets[#sets + 1] = each
    end
  end
  for place = 4, first - 1 do
    queues[ARGV[place]] = true
  end
  queues[queue or ''] = true -- its first job may have come after the caller read the queues
  for each in pairs(queues) do
    if redis.call('SISMEMBER', prefix .. 'load:' .. each, job) == 1 then
      slots[#slots + 1] = each
    end
  end
  local state_at, ended_at = unpack(redis.call('HMGET', its_record, (state or '') .. '_at', 'ended_at'))
  local seconds = stamp(now - tonumber(state_at or ended_at or now))
  answer[#answer + 1] = {sets, slots, {state, queue, deliveries, why, seconds}}
end
return answer
