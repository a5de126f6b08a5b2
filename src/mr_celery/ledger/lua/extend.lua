-- deferred -> deferred: the outcome is expected later. A deadline never becomes earlier.
--
-- Keys:    job:<id> (deadline), deferred
-- ARGV:    prefix, id, attempt, secret, seconds (from now; 0: only check the reference)
-- Returns: 'accepted', or why not, as complete.lua
local attempt, secret, seconds = ARGV[3], ARGV[4], tonumber(ARGV[5])
local refusal = reference_refusal(attempt, secret)
if refusal then
  return refusal
end
local state, earlier = get('state', 'deadline')
local deadline = now + seconds
if seconds <= 0 or deadline <= tonumber(earlier or 0) then
  return 'accepted'
end
set('deadline', stamp(deadline))
if state == 'deferred' then
  redis.call('ZADD', prefix .. 'deferred', stamp(deadline), id)
  add_event('extended', 'its outcome is expected later')
end
return 'accepted'
