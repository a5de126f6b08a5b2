-- Counts in how many comparisons in a row jobs were missing in the server's lists, for all bridges together.
-- The key is `missed`, a hash: job id -> count and the time of the first miss. A job that is not named was listed.
-- ARGV: prefix, (unused), then the ids that are missing now.
-- Answers: for each its count and the seconds since its first miss, in order.
local missed = prefix .. 'missed'
local earlier, fields, answer = {}, {}, {}
local kept = redis.call('HGETALL', missed)
for index = 1, #kept, 2 do
  earlier[kept[index]] = kept[index + 1]
end
redis.call('DEL', missed)
for index = 3, #ARGV do
  local job = ARGV[index]
  local count, first = string.match(earlier[job] or '', '^(%d+) (.+)$')
  count, first = (tonumber(count) or 0) + 1, first or stamp(now)
  redis.call('HSET', missed, job, count .. ' ' .. first)
  answer[#answer + 1] = count
  answer[#answer + 1] = stamp(now - tonumber(first))
end
redis.call('EXPIRE', missed, 3600)
return answer
