-- (nothing) -> claimed: the server says that this job is ours and running, and the ledger does not know it.
-- Answers: 'adopted' | 'known'.
local job, route, queue, nonce = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local max_attempts, on_lost = ARGV[7], ARGV[8]
local asked_at, wait_seconds = tonumber(ARGV[9]), tonumber(ARGV[10])

local known = get('state', 'ended_at')
if known[1] and not (known[2] and tonumber(known[2]) < asked_at) then
  return 'known'
end
redis.call('DEL', record)
set('job', job, 'route', route, 'queue', queue, 'nonce', nonce, 'max_attempts', max_attempts, 'on_lost', on_lost)
redis.call('SADD', prefix .. 'load:' .. queue, id)
begin_attempt(1, nonce)
place('claimed', now + wait_seconds)
return 'adopted'
