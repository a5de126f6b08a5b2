-- Reads everything that is held of some jobs, each at one moment: where it is listed, and what its record says.
-- ARGV: prefix, (unused), number of queues, the queues whose slots are looked at, then ids.
-- Answers: for each job {the states in whose sets it is}, {the queues of which it holds a slot}, {what its record says:
-- state, queue, deliveries, why; then the seconds since it came to that state}.
local first = 4 + tonumber(ARGV[3])
local answer = {}
for index = first, #ARGV do
  local job = ARGV[index]
  local its_record = prefix .. 'job:' .. job
  local known = redis.call('HMGET', its_record, 'state', 'queue', 'deliveries', 'why')
  local sets, slots, queues = {}, {}, {}
  for _, state in ipairs({'admitted', 'claimed', 'sent', 'running', 'finished'}) do
    if redis.call('ZSCORE', prefix .. state, job) then
      sets[#sets + 1] = state
    end
  end
  for place = 4, first - 1 do
    queues[ARGV[place]] = true
  end
  queues[known[2] or ''] = true -- its first job may have come after the queues were looked for
  for queue in pairs(queues) do
    if redis.call('SISMEMBER', prefix .. 'load:' .. queue, job) == 1 then
      slots[#slots + 1] = queue
    end
  end
  local since = redis.call('HMGET', its_record, (known[1] or '') .. '_at', 'ended_at')
  known[5] = stamp(now - tonumber(since[1] or since[2] or now))
  answer[#answer + 1] = {sets, slots, known}
end
return answer
