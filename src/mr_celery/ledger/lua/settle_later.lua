-- admitted -> admitted: the answer to the claim was lost. Ask the server about it after `seconds`.
--
-- Keys:    job:<id> (state, trace), admitted
-- ARGV:    prefix, id, seconds, trace (or '')
-- Returns: 1, or 0 if the job is not admitted
local seconds, trace = tonumber(ARGV[3]), ARGV[4]
if get('state') ~= 'admitted' then
  return 0
end
if trace ~= '' then
  set('trace', trace)
end
redis.call('ZADD', prefix .. 'admitted', stamp(now + seconds), id)
return 1
