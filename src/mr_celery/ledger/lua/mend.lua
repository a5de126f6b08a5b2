-- any -> the same, or -> (nothing): makes the keys of some jobs consistent (see mending.lua).
--
-- Keys:    of each job: job:<id>, payload:<id>, events:<id>, the sets of the states, load:<queue>
-- ARGV:    prefix, (unused), wait_seconds, history, number of queues, the queues whose slots are checked, then ids
-- Returns: for each job {its state or '', the damage or '', 1 if the job itself is lost and adopt.lua must supply it}
local wait_seconds, history, first = tonumber(ARGV[3]), tonumber(ARGV[4]), 6 + tonumber(ARGV[5])
local queues, answer = {}, {}
for index = 6, first - 1 do
  queues[#queues + 1] = ARGV[index]
end
for index = first, #ARGV do
  select_job(ARGV[index])
  local damage, state = mend(queues, wait_seconds)
  if damage == 'record' or damage == 'outcome' then
    add_event('forgotten', 'its ' .. damage .. ' was lost: adopted again if the server lists it as running')
    redis.call('PEXPIRE', prefix .. 'events:' .. id, math.floor(history * 1000))
  elseif damage == 'lists' and needs_job[state] then
    add_event('mended', 'its missing entries were restored')
  end
  local bare = needs_job[state or ''] and redis.call('HEXISTS', payload, 'job') == 0
  answer[#answer + 1] = {state or '', damage or '', bare and 1 or 0}
end
return answer
