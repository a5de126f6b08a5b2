-- finished -> closed: the job is terminal on the server. `how` is delivered or superseded.
-- The outcome itself is kept for keep_seconds more (key outcome:<id>): see adopt.lua.
-- Answers: 1, or 0 where the job is not in that state.
local how, history, keep_seconds = ARGV[3], ARGV[4], tonumber(ARGV[5])
local known = get('state', 'outcome')
if known[1] ~= 'finished' then
  return 0
end
finish_off('finished', 'closed', history)
set('how', how)
if how == 'delivered' and known[2] then
  redis.call('SET', kept_outcome, known[2], 'PX', math.floor(keep_seconds * 1000))
end
return 1
