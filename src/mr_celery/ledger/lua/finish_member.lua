-- running -> finished: a member ends the job. The final one has its result, or one has failed.
-- The member is named by its run, or, where its process reports it from outside, by its Celery retries and its worker.
-- If the job's record is lost, a result is kept until the server lists the job (see adopt.lua).
--
-- Keys:    job:<id> (finished_by), payload:<id> (outcome, blob:<index>), members:<id>, unfinished:<id>, running, finished
-- ARGV:    prefix, id, task_id, member_id, run (or ''), retries, holder, unstarted (1: its message did not start),
--          status, outcome, reason (or ''), note (or ''), history, task_name (of its message; '': any), then the blobs
-- Returns: 'finished' (also if the same run asks again) | 'kept' (the record is lost), otherwise what prevents it;
--          'over': another outcome is recorded
local task_id, member_id, run, retries, holder = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local unstarted, status, outcome, reason, note = ARGV[8] == '1', ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local history, name = tonumber(ARGV[13]), ARGV[14]

local function keep_blobs()
  for index = 15, #ARGV do
    redis.call('HSET', payload, 'blob:' .. (index - 15), ARGV[index])
  end
end

local refusal = not_in_workflow(task_id)
if refusal == 'unknown' and run ~= '' then
  redis.call('HSET', payload, 'outcome', outcome, 'outcome_status', status, 'outcome_task', task_id)
  keep_blobs()
  redis.call('PEXPIRE', payload, math.floor(history * 1000))
  return 'kept'
end
local member = read_member(member_id)
if refusal == 'finished' and member and run ~= '' and member.run == run and not lives[member.state] then
  return 'finished'
elseif refusal then
  return refusal == 'finished' and 'over' or refusal
end
if run ~= '' then
  if not member or member.state ~= 'running' or member.run ~= run then
    return 'superseded'
  end
elseif not is_message_of(member, name, retries) then
  return 'running'
elseif unstarted and member.state ~= 'sent' and member.state ~= 'received' then
  return 'running'
elseif not unstarted and (member.state ~= 'running' or member.holder ~= holder) then
  return 'running'
end
keep_blobs()
write_member(member_id, member, status == 'done' and 'done' or 'failed', now)
-- An empty finished_by keeps renew_members.lua from stopping the other members: they end by themselves.
record_outcome('running', status, outcome, now, reason, get('running_at') or nil, 'finished_by', '', 'deliveries', 0)
if note ~= '' then
  add_event('member_failed', note)
end
add_event('finished', described(status, reason))
return 'finished'
