-- Reads the oldest jobs of each state. If many jobs are in a state, only those that are due first for a check are
-- compared.
--
-- Keys:    the sets of the states; job:<id> of the jobs that are compared
-- ARGV:    prefix, (unused), the most jobs of a state that are compared, the most that are returned, then states
-- Returns: for each state {id, seconds until its next check, ...}, in the order in which the jobs entered it
local compared, returned = tonumber(ARGV[3]), tonumber(ARGV[4])
local answer = {}
for index = 5, #ARGV do
  local state, found = ARGV[index], {}
  local listed = redis.call('ZRANGE', prefix .. state, 0, compared - 1, 'WITHSCORES')
  for place = 1, #listed, 2 do
    local since = tonumber(redis.call('HGET', prefix .. 'job:' .. listed[place], state .. '_at') or '') or now
    found[#found + 1] = {listed[place], listed[place + 1] - now, since}
  end
  table.sort(found, function(one, other) return one[3] < other[3] end)
  local jobs = {}
  for place = 1, math.min(returned, #found) do
    jobs[#jobs + 1] = found[place][1]
    jobs[#jobs + 1] = stamp(found[place][2])
  end
  answer[#answer + 1] = jobs
end
return answer
