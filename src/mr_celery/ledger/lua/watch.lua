-- Reads in which states somebody must look at a job now. It is a look for lost runs, too (see patience.lua).
-- ARGV: prefix, (unused), lease. Answers: how many jobs are due in each state, in order.
local due = {}
for place, state in ipairs({'admitted', 'claimed', 'sent', 'running', 'finished'}) do
  due[place] = redis.call('ZCOUNT', prefix .. state, '-inf', stamp(now))
end
if patient() then
  due[4] = 0
end
return due
