-- claimed | sent | running | deferred -> finished: a caller that has the attempt's secret supplies the outcome.
-- A handler may still be running, because the outcome came before it returned. It gets hold_seconds to add its
-- attachments (see amend.lua), and then a courier delivers.
--
-- Keys:    job:<id> (completion, finished_by, deliveries, deliverer), payload:<id> (outcome, blob:<index>), the sets of
--          the states
-- ARGV:    prefix, id, attempt, secret, call (a nonce; the same if the call is repeated), attached (the number of stored
--          attachments that the caller has added to the outcome), status, outcome, reason (or ''), hold_seconds, then
--          the blobs
-- Returns: 'accepted', or why not: 'completed' (by an earlier call), 'ended' (otherwise), 'aborted', 'superseded' (the
--          attempt was lost, and another one began), 'unknown'; 'changed': there are more attachments, to be added first
local attempt, secret, call, attached = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local status, outcome, reason, hold_seconds = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local refusal = reference_refusal(attempt, secret)
if refusal then
  return refusal == 'completed' and get('completion') == call and 'accepted' or refusal
end
local state, stored = get('state', 'attached')
if tonumber(stored or 0) ~= attached then
  return 'changed'
end
for index = 11, #ARGV do
  redis.call('HSET', payload, 'blob:' .. (index - 11), ARGV[index])
end
set('completion', call, 'finished_by', 'ref')
local due = now
if state == 'running' then
  set('deliveries', 1, 'deliverer', 'run')
  due = now + hold_seconds
else
  set('deliveries', 0)
end
drop_attachments()
record_outcome(state, status, outcome, due, reason)
add_event('finished', described(status, reason), attempt)
return 'accepted'
