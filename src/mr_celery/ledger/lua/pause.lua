-- Pauses claiming: from now on no bridge admits a job.
--
-- Keys:    paused
-- ARGV:    prefix, (unused), pause (by, at and why, as JSON)
-- Returns: nothing
local pause = ARGV[3]
redis.call('SET', prefix .. 'paused', pause)
notify('paused')
