-- Counts in how many comparisons in a row the server's lists lacked a job, for all bridges together.
--
-- Keys:    missed, a hash: job id -> the count and the time of the first one. A job that is not named was listed
-- ARGV:    prefix, (unused), then the ids that the lists lack now
-- Returns: for each its count and the seconds since the first one, in order
local missed = prefix .. 'missed'
local earlier, answer = {}, {}
local known = redis.call('HGETALL', missed)
for index = 1, #known, 2 do
  earlier[known[index]] = known[index + 1]
end
redis.call('DEL', missed)
for index = 3, #ARGV do
  local job = ARGV[index]
  local times, first = string.match(earlier[job] or '', '^(%d+) (.+)$')
  times, first = (tonumber(times) or 0) + 1, first or now_stamp
  redis.call('HSET', missed, job, times .. ' ' .. first)
  answer[#answer + 1] = times
  answer[#answer + 1] = stamp(now - tonumber(first))
end
redis.call('EXPIRE', missed, 3600)
return answer
