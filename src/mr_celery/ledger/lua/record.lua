-- The functions that all transitions share. This file is prepended to each script.
--
-- Keys. All have one prefix with a hash tag ("modelreins:{<worker name>}:"), so a Cluster keeps them in one slot.
--   job:<id>      hash: the record of a job, see below
--   payload:<id>  hash: the large fields of a job in flight: job, outcome, blob:<index>, failures (of the delivery),
--                 attached:<n> and attached:<n>:<index> (see attach). They are apart because Redis stores a hash without
--                 large values in a third of the memory. The fields outcome_status and outcome_task (its attempt) allow
--                 delivery if the record is lost
--   admitted, claimed, sent, running, deferred, finished
--                 sorted sets: the jobs in that state, scored by the time of their next check. That of a deferred job is
--                 its deadline
--   waiting, undelivered
--                 sorted sets: jobs that no worker has started, and outcomes not delivered yet, scored by since when
--   load:<queue>  set: the jobs that hold a slot of that queue (admitted to running)
--   members:<id>  hash: the members of the job's workflow by their task ids, see members.lua
--   unfinished:<id>
--                 sorted set: the members that are sent, received or running, scored by the time of their next check
--   events:<id>   list: the job's history, one line for each event: time, event, attempt, note
--   ended:<how>   sorted sets: the jobs that ended (done, failed, escalated, superseded, aborted), scored by the time.
--                 Entries older than the history do not count, even if they were not removed yet
--   deferring     set: the names of the tasks of which jobs were deferred
--   stats         hash: counters and histograms, see stats.py
--   paused        string: the pause as JSON: by, at, why. Absent: jobs are claimed
--   outcome:<id>  string: the outcome of a job that closed recently, see adopt.lua
--   parts:<id>    hash: its fields artifact:<index> and review:<index>, kept for as long
--   dropped:<id>  string: marks a claim that had not happened, of a job that must not run twice, see adopt.lua
--   missed        hash: the jobs that the server's lists lack, see missed.lua
--   routes        hash: the routes that the server is known to have, see note_route.lua
--   reached       hash: the progress of the workers in each queue, see start.lua and unstarted.lua
--   looked        hash: the last check for lost runs, see grace.lua
--   turn:<what>   string: one caller's turn, see turn.lua
--   refused:<id>  string: a token that the server refuses, as JSON; the id is of the token, which is stored nowhere
--   founded       string: marks a ledger in use, see mark_in_use.lua
--   replicated    string: the last step that waited for replicas, see replicated.lua
--   nothing       never exists, see known_work.lua and Scripts in scripts.py
--   notifications channel: the new state, if a slot becomes free or work becomes due
--
-- The record, job:<id>:
--   state, <state>_at             the state, and since when it is (or was) in each
--   task_name, queue, nonce, max_attempts, on_lost
--                                 the route; the nonce is new each time that the job is admitted or adopted
--   capability                    what the job requires, for operators; at most 200 bytes
--   attempt, task_id              the current attempt, from 1, and its Celery task id
--   resends, copies, received     of the attempt: counted resends, all resends, and whether a worker has its message
--   retries, run, node, holder    the fence: Celery retries of the run, its nonce, and the worker process that has it
--   next_retries                  those of the message that the run has announced, see announce_retry.lua
--   status, finished_by           the outcome's status, and the Celery retries of the run that it is from
--   reason                        of a failure, for operators: never content of the job; at most 200 bytes
--   deliveries, deliverer         the number of the last delivery; run or courier, while it is in progress
--   postponed                     how often the attempt was given back before its handler began, see postpone.lua
--   own                           only the handler can make the message of its retry, see retry.lua
--   adopted                       the job was adopted without its record, see awaits_lost_run
--   losses                        how many runs of the job were lost
--   secret                        of the attempt: the secret part of job.ref, once it was asked for
--   shaped                        1 if its handler declares result= or review=, which its outcome goes through
--   deadline, note                until when a deferred job waits, and for what, in its handler's words
--   completion                    the call that ended the job with job.ref, by its nonce
--   amended                       the run that has added its attachments to that call's outcome, by its nonce
--   attached                      of the attempt: the number of stored attachments
--   workflow, handed_over         of the attempt: the task id of the workflow's final member, and whether all its first
--                                 messages were published. From then on the members hold the job, and no run does
--   why, lost, how, ending, ended_at, redeliveries, refusals, refused_at, trace, artifact:<index>, review:<index>
--
-- Any of these keys may be lost. The record is the truth, and everything else is repaired from it. A job without a
-- record is found in the server's list (see mending.lua). So no script takes a field for granted.
--
-- ARGV[1] is the prefix, ARGV[2] the job's id. All times are in seconds, by this server's clock.
local prefix = ARGV[1]
local id, record, payload

-- Make a job the current one. A step may go through several jobs.
local function select_job(job)
  id, record, payload = job, prefix .. 'job:' .. job, prefix .. 'payload:' .. job
end

-- The job's keys that few steps use.
local function kept_outcome()
  return prefix .. 'outcome:' .. id
end

local function kept_parts()
  return prefix .. 'parts:' .. id
end

local function members()
  return prefix .. 'members:' .. id
end

local function unfinished()
  return prefix .. 'unfinished:' .. id
end

select_job(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local now_stamp = clock[1] .. string.sub('.000000', 1, 7 - #clock[2]) .. clock[2]

local function stamp(time)
  return string.format('%.6f', time)
end

-- Fields of the record, as values in the order of their names; false if a field is absent.
local function get(...)
  return unpack(redis.call('HMGET', record, ...))
end

local function set(...)
  redis.call('HSET', record, ...)
end

-- A text of at most 200 bytes, cut between two characters of UTF-8.
local function bounded(text)
  if #text <= 200 then
    return text
  end
  return (string.gsub(string.sub(text, 1, 200), '[\192-\255][\128-\191]*$', ''))
end

-- Add a line to the job's history. Notes are our own words, never the job's content nor the server's words.
-- A very long history keeps its beginning and its newest line. Without `attempt`, the record's is used.
local function add_event(event, note, attempt)
  local events = prefix .. 'events:' .. id
  local line = now_stamp .. ' ' .. event .. ' ' .. (attempt or get('attempt') or 0) .. ' ' .. (note or '')
  if redis.call('RPUSH', events, line) > 200 then
    redis.call('LSET', events, 199, line)
    redis.call('LTRIM', events, 0, 199)
  end
end

-- Add amounts to the stats of these names. Stats that are damaged begin again: no step may fail because of them.
local function add_to_stats(names, amounts)
  local stats = prefix .. 'stats'
  local known = redis.pcall('HMGET', stats, unpack(names))
  if known.err then
    redis.call('DEL', stats)
    known = {}
  end
  local fields = {}
  for index, name in ipairs(names) do
    local value = (tonumber(known[index] or 0) or 0) + amounts[index]
    fields[#fields + 1] = name
    fields[#fields + 1] = value % 1 == 0 and value or stamp(value)
  end
  redis.call('HSET', stats, unpack(fields))
end

-- Increment a counter, for the metrics. Only a small, fixed set of names is used.
local function count(counter)
  if type(redis.pcall('HINCRBY', prefix .. 'stats', counter, 1)) ~= 'number' then
    add_to_stats({counter}, {1}) -- they are damaged
  end
end

local bounds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}

-- Add the time since `since` to a histogram, and increment a counter (nil: none). If it is not known since when, only
-- the counter is incremented.
local function observe(histogram, since, counter)
  if not since then
    return counter and count(counter)
  end
  local seconds, bucket = math.max(0, now - tonumber(since)), 'inf'
  for _, bound in ipairs(bounds) do
    if seconds <= bound then
      bucket = bound
      break
    end
  end
  add_to_stats({histogram .. ':' .. bucket, histogram .. ':sum', counter}, {1, seconds, 1})
end

-- The set that records since when a job in this state waits for a worker, or for its delivery.
local age_set = {claimed = 'waiting', sent = 'waiting', finished = 'undelivered'}

local function track_age(from, to)
  local before, after = age_set[from], age_set[to]
  if before ~= after then
    if before then
      redis.call('ZREM', prefix .. before, id)
    end
    if after then
      redis.call('ZADD', prefix .. after, now_stamp, id)
    end
  end
end

-- Move the job from one state (nil: none) to another, with its next check at `due`, and set further fields.
local function move(from, to, due, ...)
  if from then
    redis.call('ZREM', prefix .. from, id)
  end
  redis.call('ZADD', prefix .. to, stamp(due), id)
  track_age(from, to)
  set('state', to, to .. '_at', now_stamp, ...)
end

-- A user without permission for the channel has no notifications. The loops of a bridge also poll.
local function notify(what)
  redis.pcall('PUBLISH', prefix .. 'notifications', what)
end

local function take_slot()
  redis.call('SADD', prefix .. 'load:' .. (redis.call('HGET', record, 'queue') or ''), id)
end

local function free_slot()
  redis.call('SREM', prefix .. 'load:' .. (redis.call('HGET', record, 'queue') or ''), id)
end

-- The task id of an attempt. The nonce distinguishes it from those before the job was last admitted or adopted.
local function task_id_of(attempt, nonce)
  return 'mr-' .. id .. '-' .. attempt .. '-' .. (nonce or '')
end

-- Whether a message is for another task than the recorded one. An empty name: it is not from a message.
local function is_other_task(task_name, recorded)
  return task_name ~= '' and recorded and recorded ~= task_name
end

-- Store uploads and reviews of a run whose job will be completed through its reference: an outcome with these parts,
-- and the content of its uploads, which begins at ARGV[first].
local function attach(parts, first)
  local name = 'attached:' .. (redis.call('HINCRBY', record, 'attached', 1) - 1)
  redis.call('HSET', payload, name, parts)
  for index = first, #ARGV do
    redis.call('HSET', payload, name .. ':' .. (index - first), ARGV[index])
  end
end

local function drop_attachments()
  if get('attached') then
    for _, field in ipairs(redis.call('HKEYS', payload)) do
      if string.find(field, '^attached:') then
        redis.call('HDEL', payload, field)
      end
    end
    redis.call('HDEL', record, 'attached')
  end
end

-- The fields of an attempt, with its own counts of resends and retries.
local function attempt_fields(attempt, nonce)
  return 'attempt', attempt, 'task_id', task_id_of(attempt, nonce), 'resends', 0, 'retries', 0
end

-- Begin another attempt than the first.
local function begin_attempt(attempt, nonce)
  set(attempt_fields(attempt, nonce))
  redis.call('HDEL', record, 'why', 'received', 'copies', 'adopted', 'own', 'postponed', 'secret', 'deadline',
    'note', 'workflow', 'handed_over', 'next_retries')
  redis.call('UNLINK', members(), unfinished())
  drop_attachments()
end

-- Whether a delivery (an attempt's, by its number) is the one in progress.
local function is_delivering(task_id, number)
  local state, current_task_id, deliveries, deliverer = get('state', 'task_id', 'deliveries', 'deliverer')
  return state == 'finished' and current_task_id == task_id and deliveries == number and deliverer ~= false
end

-- End the delivery in progress. The next one may begin at `due`.
local function end_delivery(due)
  redis.call('HDEL', record, 'deliverer')
  redis.call('ZADD', prefix .. 'finished', stamp(due), id)
end

-- Bring an ended job back: remove it from the list of its ending (false: it has none), and keep its history.
local function reopen(ending)
  if ending then
    redis.call('ZREM', prefix .. 'ended:' .. ending, id)
    redis.call('PERSIST', prefix .. 'events:' .. id)
  end
end

-- Delete the keys that are left from an earlier time that the job was here. Each key expires on its own, so any of them
-- may be missing. `ending` is as in reopen.
local function forget(ending)
  reopen(ending)
  redis.call('DEL', record, payload, kept_outcome(), kept_parts(), members(), unfinished())
end

-- Whether the job was adopted without its record, and its new attempt was not sent yet. A worker may still be running
-- an attempt of the lost record. While that worker renews it, or if it finishes it, that attempt counts.
local function awaits_lost_run(state, adopted, run)
  return adopted and (state == 'claimed' or (state == 'running' and not run))
end

-- Record the outcome, to be delivered from `due` on. A nil `reason` keeps the reason in the record, and '' deletes it.
-- `ran_since` is the start of the run that has ended (nil: none). Further fields are set together with the state, after
-- the outcome is stored: if the script fails in between, the caller can repeat the step.
local function record_outcome(from, status, outcome, due, reason, ran_since, ...)
  local task_id, task_name, queue, earlier_reason = get('task_id', 'task_name', 'queue', 'reason')
  redis.call('SREM', prefix .. 'load:' .. (queue or ''), id)
  redis.call('HSET', payload, 'outcome', outcome, 'outcome_status', status, 'outcome_task', task_id or '')
  if reason == '' and earlier_reason then
    redis.call('HDEL', record, 'reason')
  elseif reason and reason ~= '' then
    set('reason', bounded(reason))
  end
  move(from, 'finished', due, 'status', status, ...)
  if from and from ~= 'finished' then
    observe('run:' .. (task_name or ''), ran_since, 'finished:' .. status .. ':' .. (task_name or ''))
  end
  notify(due > now and 'finished' or 'deliver')
end

-- A status with its reason, for the history.
local function described(status, reason)
  return reason == '' and status or status .. ': ' .. bounded(reason)
end

-- Remove the server's responses to the delivered parts from the record. With `milliseconds`, they are kept beside the
-- outcome.
local function drop_parts(milliseconds)
  for _, field in ipairs(redis.call('HKEYS', record)) do
    if string.find(field, '^artifact:') or string.find(field, '^review:') then
      if milliseconds then
        redis.call('HSET', kept_parts(), field, redis.call('HGET', record, field))
        redis.call('PEXPIRE', kept_parts(), milliseconds)
      end
      redis.call('HDEL', record, field)
    end
  end
end

-- The number of jobs that hold a slot, in all queues together.
local function slots_taken()
  local total = 0
  for _, each in ipairs({'admitted', 'claimed', 'sent', 'running'}) do
    total = total + redis.call('ZCARD', prefix .. each)
  end
  return total
end

-- Whether no slot is free. A limit below 0 means no limit.
local function is_full(taken, limit)
  return limit >= 0 and taken >= limit
end

-- End the job: the record stays as history, with further fields, and the payload is deleted. `attempt` and
-- `workflow` are the record's. `note` is for the job's history.
local function end_job(from, to, attempt, workflow, ending, note, history, ...)
  redis.call('ZREM', prefix .. from, id)
  track_age(from, to)
  if from ~= 'finished' then
    free_slot()
  end
  add_event(to, note, attempt or 0)
  local milliseconds, ended = math.floor(tonumber(history) * 1000), prefix .. 'ended:' .. ending
  if workflow and redis.call('HLEN', members()) <= 100 then
    redis.call('UNLINK', payload, unfinished())
    redis.call('PEXPIRE', members(), milliseconds)
  else
    redis.call('UNLINK', payload, unfinished(), members()) -- over 100 members are not kept
  end
  set('state', to, 'ending', ending, 'ended_at', now_stamp, ...)
  redis.call('ZADD', ended, now_stamp, id)
  redis.call('PEXPIRE', record, milliseconds)
  redis.call('PEXPIRE', prefix .. 'events:' .. id, milliseconds)
  if redis.call('PTTL', ended) < milliseconds then -- at most every 10 s: the key lives 10 s longer than the history
    redis.call('ZREMRANGEBYSCORE', ended, '-inf', stamp(now - tonumber(history)))
    redis.call('PEXPIRE', ended, milliseconds + 10000)
    redis.call('PEXPIRE', prefix .. 'stats', milliseconds + 10000)
  end
end

-- Note the progress of a queue, to the second (see unstarted.lua). If the job was sent several times, it is not known
-- when this message was sent, and `sent_at` is false.
local function note_progress(queue, sent_at)
  local reached, sent_field, at_field = prefix .. 'reached', queue .. ':sent', queue .. ':at'
  local newest, last_at = unpack(redis.call('HMGET', reached, sent_field, at_field))
  newest, sent_at = tonumber(newest or 0), tonumber(sent_at or 0)
  if now - tonumber(last_at or 0) >= 1 or sent_at - newest >= 1 then
    redis.call('HSET', reached, sent_field, stamp(math.max(newest, sent_at)), at_field, now_stamp)
    redis.call('EXPIRE', reached, 86400)
  end
end
