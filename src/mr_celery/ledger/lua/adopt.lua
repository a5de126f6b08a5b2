-- The server lists this job as running for our name, and the ledger does not have it in that state.
--
-- (nothing) -> claimed:   the usual case. If a worker still runs the job, it may continue while it renews its lease (see
--                         renew.lua), and its outcome counts (see finish.lua)
-- (nothing) -> running:   the handler must not run twice, and may have run: the job is lost unless a worker renews it
-- (nothing) -> finished:  the outcome is still here
-- closed -> finished:     the ledger closed it recently, and the close had no effect on the server. It gets the same
--                         outcome again, up to max_redeliveries times. The handler does not run again
-- (nothing) -> (nothing): no slot is free, and the job waits on the server
-- in flight -> the same:  the ledger has lost a part of the job: it is repaired from the server's list
--
-- Keys:    job:<id>, payload:<id>, outcome:<id>, parts:<id>, dropped:<id>, events:<id>, load:<queue>, the
--          sets of the states
-- ARGV:    prefix, id, job, capability, task_name, queue, nonce, max_attempts, on_lost, asked_at, wait_seconds,
--          max_redeliveries, trace (or ''), unsent (1: the caller has just claimed it, so no worker can have it),
--          total_limit, queue_limit (below 0: no limit)
-- Returns: 'adopted' | 'full' | 'restored' (the outcome was here) | 'redelivered' | 'mended' | 'known'
local job, capability, task_name, queue, nonce = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local max_attempts, on_lost = ARGV[8], ARGV[9]
local asked_at, wait_seconds, max_redeliveries = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local trace, unsent, total_limit, queue_limit = ARGV[13], ARGV[14] == '1', tonumber(ARGV[15]), tonumber(ARGV[16])

local state, ended_at, running_at, ending = get('state', 'ended_at', 'running_at', 'ending')
local over = state == 'closed' or state == 'aborted'
if over and tonumber(ended_at or 0) >= asked_at then
  return 'known'
end
if state and not over then
  local damage, mended_state = mend({queue}, wait_seconds)
  if mended_state then
    if needs_job[mended_state] and redis.call('HSETNX', payload, 'job', job) == 1 then
      add_event('completed', 'the lost job was read from the server again')
      if mended_state == 'claimed' and not get('adopted') then
        redis.call('ZADD', prefix .. 'claimed', now_stamp, id)
        notify('claimed')
      end
      damage = 'job'
    end
    return damage and 'mended' or 'known'
  end
  state = false -- the repair has deleted the record
end
local outcome = state == 'closed' and redis.call('GET', kept_outcome())
if outcome then
  if redis.call('HINCRBY', record, 'redeliveries', 1) > max_redeliveries then
    return 'known'
  end
  redis.call('PERSIST', record)
  reopen(ending)
  redis.call('HDEL', record, 'ended_at', 'ending', 'deliverer')
  local parts = redis.call('HGETALL', kept_parts())
  for index = 1, #parts, 2 do
    set(parts[index], parts[index + 1])
  end
  redis.call('DEL', kept_parts())
  record_outcome(nil, get('status') or 'done', outcome, now)
  add_event('reopened', 'still running on the server after its close was accepted')
  return 'redelivered'
end
unsent = unsent or redis.call('EXISTS', prefix .. 'dropped:' .. id) == 1 or (over and not running_at)
local restorable = not over and not unsent and redis.call('HEXISTS', payload, 'outcome') == 1
local full = is_full(slots_taken(), total_limit)
  or is_full(redis.call('SCARD', prefix .. 'load:' .. queue), queue_limit)
if full and not restorable then
  return 'full'
end
redis.call('SADD', prefix .. 'load:' .. queue, id) -- the first write: see admit.lua
redis.call('DEL', prefix .. 'dropped:' .. id)
mend_lists({})
if restorable then
  redis.call('SREM', prefix .. 'load:' .. queue, id)
  redis.call('HSET', payload, 'job', job)
  redis.call('PERSIST', prefix .. 'events:' .. id)
  restore(task_name, queue)
  set('capability', bounded(capability))
  return 'restored'
end
if over then
  forget(ending)
else
  redis.call('DEL', payload, kept_outcome(), kept_parts())
end
redis.call('PERSIST', prefix .. 'events:' .. id)
redis.call('HSET', payload, 'job', job)
set('task_name', task_name, 'queue', queue, 'nonce', nonce, 'max_attempts', max_attempts, 'on_lost', on_lost)
set('capability', bounded(capability))
set(attempt_fields(1, nonce))
if trace ~= '' then
  set('trace', trace)
end
if not over and not unsent then
  set('adopted', 1)
end
move(nil, (unsent or on_lost ~= 'fail') and 'claimed' or 'running', now + wait_seconds)
add_event('adopted', 'running on the server, unknown to the ledger')
count('adopted')
return 'adopted'
