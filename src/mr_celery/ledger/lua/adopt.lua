-- (nothing) -> claimed: the server says that this job is ours and running, and the ledger does not know it.
-- closed -> finished: or the ledger has closed it just now: then the server said that it was closed without doing it,
-- and gets the same outcome again, a few times at the most. The handler does not run again for that.
-- Answers: 'adopted' | 'redelivered' | 'known'.
local job, route, queue, nonce = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local max_attempts, on_lost = ARGV[7], ARGV[8]
local asked_at, wait_seconds, most_redeliveries = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local trace = ARGV[12]

local known = get('state', 'ended_at')
if known[1] and not (known[2] and tonumber(known[2]) < asked_at) then
  return 'known'
end
local outcome = known[1] == 'closed' and redis.call('GET', kept_outcome)
if outcome then
  if redis.call('HINCRBY', record, 'redeliveries', 1) > most_redeliveries then
    return 'known'
  end
  redis.call('PERSIST', record)
  reopen()
  redis.call('HDEL', record, 'ended_at', 'ending', 'carrier')
  record_outcome(nil, get('status')[1], outcome, now)
  tell('reopened', 'the server lists it as running, though it took the close')
  return 'redelivered'
end
redis.call('SADD', prefix .. 'load:' .. queue, id) -- the first write: see admit.lua
if known[1] then
  forget()
end
set('job', job, 'route', route, 'queue', queue, 'nonce', nonce, 'max_attempts', max_attempts, 'on_lost', on_lost)
begin_attempt(1, nonce)
if trace ~= '' then
  set('trace', trace)
end
move(nil, 'claimed', now + wait_seconds)
tell('adopted', 'running on the server, unknown to the ledger')
count('adopted')
return 'adopted'
