-- Prepended to the scripts that repair jobs which the ledger has partly lost: keys were evicted, or deleted by hand.
--
-- The record says what a job is. Everything else is derived from it: the set of its state, the set of those that wait
-- (for a worker, or for delivery), and the slot of its queue. If the record is lost, an outcome that is still here is
-- delivered; otherwise the server's list says whether the job still has to run (see adopt.lua).
-- Scripts are atomic, so an inconsistency is damage and never a step in progress.
local states = {'admitted', 'claimed', 'sent', 'running', 'deferred', 'finished'}
local takes_slot = {admitted = true, claimed = true, sent = true, running = true}
local needs_job = {admitted = true, claimed = true, sent = true, running = true, deferred = true}

-- Whether an outcome was recorded and can be delivered. One that expires waits for the server's list (see finish.lua).
local function has_outcome()
  return redis.call('HEXISTS', payload, 'outcome') == 1 and redis.call('PTTL', payload) < 0
end

-- Put the job into a sorted set, or remove it. Returns whether that was necessary.
local function mend_set(name, wanted, score)
  local present = redis.call('ZSCORE', prefix .. name, id)
  if wanted and not present then
    redis.call('ZADD', prefix .. name, stamp(score), id)
  elseif present and not wanted then
    redis.call('ZREM', prefix .. name, id)
  else
    return false
  end
  return true
end

-- Let the job have a slot of its own queue if `wanted`, and no other slot. Returns whether nothing had to change.
local function mend_slots(queues, own, wanted)
  local intact, seen = true, {}
  for _, queue in ipairs({own or '', unpack(queues)}) do
    if not seen[queue] then
      seen[queue] = true
      local load, needed = prefix .. 'load:' .. queue, wanted and queue == own
      if (redis.call('SISMEMBER', load, id) == 1) ~= needed then
        redis.call(needed and 'SADD' or 'SREM', load, id)
        intact = false
      end
    end
  end
  return intact
end

-- List the job as its state requires; without a state, nowhere. Returns whether nothing had to change.
local function mend_lists(queues, state, queue, since, due)
  local intact = true
  for _, each in ipairs(states) do
    intact = not mend_set(each, each == state, due) and intact
  end
  for _, each in ipairs({'waiting', 'undelivered'}) do
    intact = not mend_set(each, age_set[state or ''] == each, tonumber(since) or now) and intact
  end
  return mend_slots(queues, queue, takes_slot[state or ''] == true) and intact
end

-- (nothing) -> finished: the outcome is here, the job's record is not.
local function restore(task_name, queue)
  local status, task_id = unpack(redis.call('HMGET', payload, 'outcome_status', 'outcome_task'))
  if not task_id or task_id == '' then
    task_id = task_id_of(1, 'lost')
  end
  local attempt, nonce = string.match(task_id, '%-(%d+)%-([^-]*)$')
  redis.call('DEL', record, members(), unfinished())
  redis.call('PERSIST', payload)
  -- A delivery may have begun before, so the next one is not the first. An empty finished_by keeps renew.lua
  -- from reporting it as ended.
  set('task_name', task_name, 'queue', queue, 'nonce', nonce or '', 'max_attempts', 1, 'attempt', attempt or 1,
    'task_id', task_id, 'resends', 0, 'retries', 0, 'status', status or 'done', 'deliveries', 1, 'finished_by', '')
  move(nil, 'finished', now)
  add_event('restored', 'its record was lost, its outcome was not')
  notify('deliver')
end

-- Make the lists fit the record. A job that is added to a list gets `wait` seconds until its next check.
-- Returns the damage, or nil; and the state that the job is in then, or nil.
--   'lists'    it was not listed where it belongs, or also elsewhere, or its slot was wrong
--   'record'   the record, or a part of it, is lost; nothing is left of the job
--   'outcome'  the outcome is lost, and no delivery has it; nothing is left of the job
--   'restored' the record was lost, the outcome is delivered
local function mend(queues, wait)
  local state, task_name, queue, nonce, max_attempts, attempt, task_id, deliverer = get(
    'state', 'task_name', 'queue', 'nonce', 'max_attempts', 'attempt', 'task_id', 'deliverer')
  local in_flight = needs_job[state or ''] or state == 'finished'
  if state and not in_flight and state ~= 'closed' and state ~= 'aborted' then
    return nil, state -- a state of a later version
  end
  local routed = task_name and queue and nonce and max_attempts
  local attempted = state == 'admitted' or (attempt and task_id)
  local damage = nil
  if not state or (in_flight and not (routed and attempted)) then
    damage = 'record'
  elseif state == 'finished' and redis.call('HEXISTS', payload, 'outcome') == 0 then
    local delivered_until = deliverer and redis.call('ZSCORE', prefix .. 'finished', id)
    if not delivered_until or tonumber(delivered_until) <= now then
      damage = 'outcome'
    end
  end
  if not damage then
    local since, due = in_flight and get(state .. '_at'), now + wait
    if state == 'deferred' then
      due = tonumber(get('deadline') or due)
    end
    if mend_lists(queues, in_flight and state, queue, since, due) then
      return nil, state
    end
    return 'lists', state
  end
  if has_outcome() then
    mend_lists(queues)
    restore('', '')
    return 'restored', 'finished'
  end
  mend_lists(queues, nil, queue)
  redis.call('DEL', record, members(), unfinished())
  if redis.call('HEXISTS', payload, 'outcome') == 0 then
    redis.call('UNLINK', payload)
  end
  return damage, nil
end
