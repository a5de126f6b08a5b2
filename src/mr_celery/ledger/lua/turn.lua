-- Gives one caller at a time the turn to do something; other callers do not get it for some seconds.
--
-- Keys:    turn:<what>
-- ARGV:    prefix, (unused), what, seconds
-- Returns: whether it is this caller's turn
local what, seconds = ARGV[3], tonumber(ARGV[4])
return redis.call('SET', prefix .. 'turn:' .. what, 1, 'NX', 'PX', math.floor(seconds * 1000))
