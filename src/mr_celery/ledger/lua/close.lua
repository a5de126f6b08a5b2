-- finished -> closed: the job is terminal on the server. `how` is delivered or superseded. Whoever finds that out may
-- say so, as long as it is about the same attempt.
-- The outcome itself is kept for keep_seconds more (key outcome:<id>): see adopt.lua.
-- Answers: 1, or 0 where the job is not in that state.
local task, how, history, keep_seconds = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local known = get('state', 'outcome', 'task', 'status', 'finished_at', 'attempt')
if known[1] ~= 'finished' or known[3] ~= task then
  return 0
end
set('how', how)
tell('closed', how, known[6])
count('deliveries:' .. how)
observe('delivery', known[5])
finish_off('finished', 'closed', how == 'superseded' and how or known[4], history)
if how == 'delivered' and known[2] then
  redis.call('SET', kept_outcome, known[2], 'PX', math.floor(keep_seconds * 1000))
end
return 1
