-- Counts the jobs of each state whose next check is due. It is a check for lost runs, too (see grace.lua).
--
-- Keys:    the sets of the states, looked
-- ARGV:    prefix, (unused), lease, then queues
-- Returns: the counts of the states, in order; a survey (see surveying.lua)
local due = {}
for place, state in ipairs({'admitted', 'claimed', 'sent', 'running', 'deferred', 'finished'}) do
  due[place] = redis.call('ZCOUNT', prefix .. state, '-inf', now_stamp)
end
if in_grace_period() then
  due[4], due[5] = 0, 0
end
return {due, survey_from(4)}
