-- (nothing) -> admitted: written before the claim requests, so that a crash in between is found. For each job on its own.
-- ARGV: prefix, (unused), total_limit, asked_at, settle_seconds, then of each job: id, job, route, queue, nonce,
-- max_attempts, on_lost, queue_limit. A limit below 0 is none.
-- Answers for each: 'admitted' (claim it) | 'full' (no slot, or paused) | 'known' (in flight, or ended since the inbox was
-- asked) | 'again' (in flight, and the server lists it as pending again: claim it, do not send it).
local total_limit, asked_at, settle_seconds = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function admit(job, route, queue, nonce, max_attempts, on_lost, queue_limit)
  local known = get('state', 'claimed_at', 'ended_at')
  local requeued = known[1] == 'closed' or known[1] == 'aborted'
  if requeued then
    if tonumber(known[3]) >= asked_at then
      return 'known'
    end
  elseif known[1] then
    if known[1] == 'admitted' or tonumber(known[2]) >= asked_at then
      return 'known'
    end
    set('claimed_at', stamp(now))
    tell('pending', 'the server had put it back: claimed again, not sent again')
    return 'again'
  end
  if redis.call('EXISTS', prefix .. 'paused') == 1 then
    return 'full'
  end
  local total = 0
  for _, state in ipairs({'admitted', 'claimed', 'sent', 'running'}) do
    total = total + redis.call('ZCARD', prefix .. state)
  end
  local load = prefix .. 'load:' .. queue
  if (total_limit >= 0 and total >= total_limit)
      or (queue_limit >= 0 and redis.call('SCARD', load) >= queue_limit) then
    return 'full'
  end
  redis.call('SADD', load, id) -- the first write: where the memory is full, it is the one that Redis refuses
  if requeued then
    forget()
  end
  set('job', job, 'route', route, 'queue', queue, 'nonce', nonce, 'max_attempts', max_attempts, 'on_lost', on_lost)
  move(nil, 'admitted', now + settle_seconds)
  tell('admitted', queue, 0)
  return 'admitted'
end

local answers = {}
for place = 6, #ARGV, 8 do
  turn_to(ARGV[place])
  answers[#answers + 1] = admit(
    ARGV[place + 1], ARGV[place + 2], ARGV[place + 3], ARGV[place + 4], ARGV[place + 5], ARGV[place + 6],
    tonumber(ARGV[place + 7])
  )
end
return answers
