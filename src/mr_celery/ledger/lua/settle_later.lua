-- admitted -> admitted: the claim's answer was lost; ask the server for its fate after a while.
-- Answers: 1, or 0 where it is not in that state.
local seconds = tonumber(ARGV[3])
if get('state')[1] ~= 'admitted' then
  return 0
end
redis.call('ZADD', prefix .. 'admitted', stamp(now + seconds), id)
return 1
