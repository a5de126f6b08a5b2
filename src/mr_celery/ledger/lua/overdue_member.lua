-- running -> running: a bridge checks the members of a workflow whose next check is due.
-- A running member whose lease has expired is lost. If a message waited in a worker that stopped reporting it, it may
-- be back in its queue, as after a deploy, so its member becomes 'sent' again. Messages that no worker has reported are
-- listed in the answer, and other bridges do not get them for `lease` seconds. If no member is unfinished, nothing
-- continues the workflow.
--
-- Keys:    job:<id>, members:<id>, unfinished:<id>, running, reached (see note_progress)
-- ARGV:    prefix, id, lease
-- Returns: {'none'} (no workflow holds the job), or {'alive' | 'lost' | 'idle', task_id, attempt, then for each member
--          concerned: its task id, state, task name, node, queue, the seconds by which the newest started message of
--          the queue was sent after it, the seconds since a message of the queue was started, and since it was due}
local lease = tonumber(ARGV[3])
local state, task_id, attempt, handed_over = get('state', 'task_id', 'attempt', 'handed_over')
if state ~= 'running' or not handed_over then
  return {'none'}
end

local function described_member(answer, member_id, member)
  local newest, last_at = unpack(redis.call('HMGET', prefix .. 'reached', member.queue .. ':sent', member.queue .. ':at'))
  for _, value in ipairs({member_id, member.state, member.name, member.node, member.queue,
    stamp(tonumber(newest or 0) - member.since), stamp(now - tonumber(last_at or 0)), stamp(now - member.since)}) do
    answer[#answer + 1] = value
  end
end

local answer = {'alive', task_id, attempt or 1}
for _, member_id in ipairs(redis.call('ZRANGEBYSCORE', unfinished(), '-inf', now_stamp, 'LIMIT', 0, 100)) do
  local member = read_member(member_id)
  if not member then
    redis.call('ZREM', unfinished(), member_id)
  elseif member.state == 'received' then
    member.holder, member.node = '', ''
    write_member(member_id, member, 'sent', now + lease, member.since)
  elseif member.state == 'sent' then
    redis.call('ZADD', unfinished(), stamp(now + lease), member_id)
    described_member(answer, member_id, member)
  else
    answer = {'lost', task_id, attempt or 1}
    described_member(answer, member_id, member)
    return answer
  end
end
local _, next_check = unpack(redis.call('ZRANGE', unfinished(), 0, 0, 'WITHSCORES'))
if not next_check then
  return {'idle', task_id, attempt or 1}
end
redis.call('ZADD', prefix .. 'running', stamp(math.min(now + lease, math.max(tonumber(next_check), now + 0.1))), id)
return answer
