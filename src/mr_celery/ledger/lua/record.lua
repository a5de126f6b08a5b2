-- What every transition shares; it is put in front of each script.
--
-- Keys, all under one prefix with a hash tag ("modelreins:{<worker name>}:"), so that a Cluster keeps
-- them in one slot:
--   job:<id>      hash: the record of one job (state, attempt, task, job, outcome, times, ...)
--   admitted, claimed, sent, running, finished
--                 sorted sets: the jobs in that state, scored by the time at which somebody must look again
--   load:<queue>  set: the jobs that hold a slot of that queue (admitted to running)
--   outcome:<id>  string: what a closed job ended with, for a little while (see adopt.lua)
--   bell          channel: rung with the new state when a slot becomes free or work becomes due
--
-- ARGV[1] is the prefix, ARGV[2] the job's id. All times are this server's clock, in seconds.
local prefix = ARGV[1]
local id = ARGV[2]
local record = prefix .. 'job:' .. id
local kept_outcome = prefix .. 'outcome:' .. id
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

local function place(state, due)
  redis.call('ZADD', prefix .. state, stamp(due), id)
  set('state', state, state .. '_at', stamp(now))
end

local function move(from, to, due)
  redis.call('ZREM', prefix .. from, id)
  place(to, due)
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
  redis.call('HDEL', record, 'why', 'held')
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

-- An earlier life of the job is over, and counts no more.
local function forget()
  redis.call('DEL', record, kept_outcome)
end

-- The outcome is known, and is to be delivered from `due` on by whoever takes it first.
local function record_outcome(from, outcome, due)
  set('outcome', outcome)
  move(from, 'finished', due)
  free_slot()
  ring(due > now and 'finished' or 'deliver')
end

-- The job's life is over: its record stays as history, without its payloads.
local function finish_off(from, to, history)
  redis.call('ZREM', prefix .. from, id)
  free_slot()
  local heavy = {'job', 'outcome'}
  for _, name in ipairs(redis.call('HKEYS', record)) do
    if string.sub(name, 1, 5) == 'blob:' then
      heavy[#heavy + 1] = name
    end
  end
  redis.call('HDEL', record, unpack(heavy))
  set('state', to, 'ended_at', stamp(now))
  redis.call('PEXPIRE', record, math.floor(tonumber(history) * 1000))
  ring(to)
end
