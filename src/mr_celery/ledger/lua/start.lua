-- claimed | sent -> running: the fence. Exactly one message of an attempt gets through, and with it the job.
-- A message with more Celery retries than the record belongs to the run that published it, and takes over.
-- The same run asking again (its first answer was lost on the way) gets the same answer.
-- Answers: {'started', job, attempt, trace or ''}, or {the state that stands against it}.

-- How far its queue is: up to which time of sending its messages are started (see unstarted.lua), and when the last one
-- was; to the second. Of a job that was sent several times it is not known which message this is. The key is `reached`.
local function reach(queue, sent_at)
  local reached, names = prefix .. 'reached', {queue .. ':sent', queue .. ':at'}
  local known = redis.call('HMGET', reached, unpack(names))
  if now - tonumber(known[2] or 0) >= 1 or tonumber(sent_at or 0) - tonumber(known[1] or 0) >= 1 then
    local newest = math.max(tonumber(known[1] or 0), tonumber(sent_at or 0))
    redis.call('HSET', reached, names[1], stamp(newest), names[2], stamp(now))
    redis.call('EXPIRE', reached, 86400)
  end
end

local task, retries, node, holder = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local lease, run = tonumber(ARGV[7]), ARGV[8]
local known = get('state', 'task', 'retries', 'attempt', 'run', 'trace', 'admitted_at', 'running_at', 'sent_at',
  'claimed_at', 'copies', 'queue')
local state, recorded = known[1], tonumber(known[3])
if not state then
  return {'unknown'}
elseif known[2] ~= task then
  return {'superseded'}
end
local waiting = (state == 'claimed' or state == 'sent') and retries >= recorded
local continued = state == 'running' and (retries > recorded or known[5] == run)
if not (waiting or continued) then
  return {state}
end
set('retries', retries, 'node', node, 'holder', holder, 'run', run)
move(state, 'running', now + lease)
if waiting then
  local once = not known[8] and not known[11]
  reach(known[12], once and (state == 'sent' and known[9] or known[10]))
end
if not (continued and known[5] == run) then
  tell('started', node, known[4])
  if known[7] and not known[8] then
    observe('pickup', known[7])
  end
end
return {'started', redis.call('HGET', payload, 'job'), known[4], known[6] or ''}
