-- Resumes claiming.
--
-- Keys:    paused
-- ARGV:    prefix, (unused)
-- Returns: 1, or 0 if it was not paused
local was_paused = redis.call('DEL', prefix .. 'paused')
notify('resumed')
return was_paused
