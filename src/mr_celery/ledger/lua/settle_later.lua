-- admitted -> admitted: the claim's answer was lost; ask the server for its fate after a while.
-- The trace that the claim belongs to is kept, where there is one.
-- Answers: 1, or 0 where it is not in that state.
local seconds, trace = tonumber(ARGV[3]), ARGV[4]
if get('state')[1] ~= 'admitted' then
  return 0
end
if trace ~= '' then
  set('trace', trace)
end
redis.call('ZADD', prefix .. 'admitted', stamp(now + seconds), id)
return 1
