-- claimed -> claimed: the broker works, but refuses the attempt's message. Or -> finished, if it has refused it often
-- enough for long enough. Both are counted from the last time that the job came to claimed.
--
-- Keys:    job:<id> (why, refusals, refused_at: the first one; reason), payload:<id> (outcome), claimed
-- ARGV:    prefix, id, task_id, why, tries, seconds, max_wait_seconds (before the next try), outcome (if it fails)
-- Returns: 'new' (for another reason than before) | 'again' | 'failed' | 'kept' (it was sent, or is over)
local task_id, why, outcome = ARGV[3], ARGV[4], ARGV[8]
local tries, seconds, max_wait_seconds = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local state, current_task_id, earlier_why, refusals, refused_at, claimed_at = get(
  'state', 'task_id', 'why', 'refusals', 'refused_at', 'claimed_at')
if state ~= 'claimed' or current_task_id ~= task_id then
  return 'kept'
end
refusals, refused_at = tonumber(refusals or 0), tonumber(refused_at or 0)
if refused_at < tonumber(claimed_at or 0) then
  refusals, refused_at = 0, now
end
refusals = refusals + 1
set('why', why, 'refusals', refusals, 'refused_at', stamp(refused_at))
if refusals >= tries and now - refused_at >= seconds then
  record_outcome('claimed', 'failed', outcome, now, 'its message was refused: ' .. why)
  add_event('finished', 'failed: its message was refused')
  return 'failed'
end
redis.call('ZADD', prefix .. 'claimed', 'XX', stamp(now + math.min(2 ^ refusals, max_wait_seconds)), id)
if refusals > 1 and earlier_why == why then
  return 'again'
end
add_event('refused')
return 'new'
