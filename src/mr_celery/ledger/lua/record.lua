-- What every transition shares; it is put in front of each script.
--
-- Keys, all under one prefix with a hash tag ("modelreins:{<worker name>}:"), so that a Cluster keeps
-- them in one slot:
--   job:<id>      hash: the record of one job (state, attempt, task, job, outcome, times, ...)
--   admitted, claimed, sent, running, finished
--                 sorted sets: the jobs in that state, scored by the time at which somebody must look again
--   waiting, undelivered
--                 sorted sets: the jobs that no worker has started, and those whose outcome is on its way, by since when
--   load:<queue>  set: the jobs that hold a slot of that queue (admitted to running)
--   story:<id>    list: what has happened to the job, a line each: time, event, attempt, note
--   ended:<how>   sorted sets: the jobs that are over (done, failed, escalated, superseded, aborted), by when; what is
--                 older than the history counts no more, whether it was tidied up by now or not
--   figures       hash: counters and histograms of what has happened, see figures.py
--   paused        string: who paused the claiming, when and why; absent: it goes on
--   outcome:<id>  string: what a closed job ended with, for a little while (see adopt.lua)
--   bell          channel: rung with the new state when a slot becomes free or work becomes due
--
-- ARGV[1] is the prefix, ARGV[2] the job's id. All times are this server's clock, in seconds.
local prefix = ARGV[1]
local id, record, kept_outcome

-- From here on it is about this job: a step may be about several.
local function turn_to(job)
  id, record, kept_outcome = job, prefix .. 'job:' .. job, prefix .. 'outcome:' .. job
end

turn_to(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000

local function stamp(time)
  return string.format('%.6f', time)
end

local function get(...)
  return redis.call('HMGET', record, ...)
end

local function set(...)
  redis.call('HSET', record, ...)
end

-- One line of the job's story. A note is in our own words: never the job's content, nor the server's words.
-- A very long story keeps its beginning, and its newest line. The attempt is looked up where it is not given.
local function tell(event, note, attempt)
  local story = prefix .. 'story:' .. id
  local line = stamp(now) .. ' ' .. event .. ' ' .. (attempt or get('attempt')[1] or 0) .. ' ' .. (note or '')
  if redis.call('RPUSH', story, line) > 200 then
    redis.call('LSET', story, 199, line)
    redis.call('LTRIM', story, 0, 199)
  end
end

-- What has happened is counted: for the metrics. All names are few and known.
local function count(figure)
  redis.call('HINCRBY', prefix .. 'figures', figure, 1)
end

local bounds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}

-- A time is put into the first class of its histogram that holds it.
local function observe(figure, since)
  local seconds = math.max(0, now - tonumber(since))
  local class = 'inf'
  for _, bound in ipairs(bounds) do
    if seconds <= bound then
      class = bound
      break
    end
  end
  count(figure .. ':' .. class)
  redis.call('HINCRBYFLOAT', prefix .. 'figures', figure .. ':sum', stamp(seconds))
end

local aged = {claimed = 'waiting', sent = 'waiting', finished = 'undelivered'}

-- Since when a job waits for a worker, or its outcome for its delivery.
local function age(from, to)
  local before, after = aged[from], aged[to]
  if before ~= after then
    if before then
      redis.call('ZREM', prefix .. before, id)
    end
    if after then
      redis.call('ZADD', prefix .. after, stamp(now), id)
    end
  end
end

local function move(from, to, due)
  if from then
    redis.call('ZREM', prefix .. from, id)
  end
  redis.call('ZADD', prefix .. to, stamp(due), id)
  age(from, to)
  set('state', to, to .. '_at', stamp(now))
end

local function ring(what)
  redis.call('PUBLISH', prefix .. 'bell', what)
end

local function free_slot()
  redis.call('SREM', prefix .. 'load:' .. (redis.call('HGET', record, 'queue') or ''), id)
end

-- The task id of one attempt. The nonce keeps it apart from an earlier life of the same job.
local function task_id(attempt, nonce)
  return 'mr-' .. id .. '-' .. attempt .. '-' .. nonce
end

-- A new attempt with budgets of its own, to be sent when it is due.
local function begin_attempt(attempt, nonce)
  set('attempt', attempt, 'task', task_id(attempt, nonce), 'resends', 0, 'retries', 0)
  if attempt > 1 then
    redis.call('HDEL', record, 'why', 'held')
  end
end

-- Whether that delivery (a number of that attempt) is the one that is under way.
local function carries(task, number)
  local known = get('state', 'task', 'deliveries', 'carrier')
  return known[1] == 'finished' and known[2] == task and known[3] == number and known[4] ~= false
end

-- The delivery under way has ended; the next one may begin at `due`.
local function lay_down(due)
  redis.call('HDEL', record, 'carrier')
  redis.call('ZADD', prefix .. 'finished', stamp(due), id)
end

-- The job is not over any more: it is off the list of its end, and its story goes on.
local function reopen()
  local ending = get('ending')[1]
  if ending then
    redis.call('ZREM', prefix .. 'ended:' .. ending, id)
    redis.call('PERSIST', prefix .. 'story:' .. id)
  end
end

-- An earlier life of the job is over, and counts no more.
local function forget()
  reopen()
  redis.call('DEL', record, kept_outcome)
end

-- The outcome is known, and is to be delivered from `due` on by whoever takes it first.
local function record_outcome(from, status, outcome, due)
  if from and from ~= 'finished' then
    count('finished:' .. status .. ':' .. get('route')[1])
  end
  set('status', status, 'outcome', outcome)
  move(from, 'finished', due)
  free_slot()
  ring(due > now and 'finished' or 'deliver')
end

-- The job's life is over: its record stays as history, without its payloads.
local function finish_off(from, to, ending, history)
  redis.call('ZREM', prefix .. from, id)
  age(from, to)
  if from ~= 'finished' then
    free_slot()
  end
  local heavy = {'job', 'outcome'}
  for _, name in ipairs(redis.call('HKEYS', record)) do
    if string.sub(name, 1, 5) == 'blob:' then
      heavy[#heavy + 1] = name
    end
  end
  redis.call('HDEL', record, unpack(heavy))
  set('state', to, 'ending', ending, 'ended_at', stamp(now))
  local kept, ended = math.floor(tonumber(history) * 1000), prefix .. 'ended:' .. ending
  redis.call('ZADD', ended, stamp(now), id)
  redis.call('ZREMRANGEBYSCORE', ended, '-inf', stamp(now - tonumber(history)))
  for _, key in ipairs({record, prefix .. 'story:' .. id, ended, prefix .. 'figures'}) do
    redis.call('PEXPIRE', key, kept)
  end
end
