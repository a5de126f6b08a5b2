-- One caller at a time may do something; nobody else may for some seconds. The key is `turn:<what>`.
-- ARGV: prefix, (unused), what, seconds. Answers: whether it is this caller's turn.
local what, seconds = ARGV[3], tonumber(ARGV[4])
return redis.call('SET', prefix .. 'turn:' .. what, 1, 'NX', 'PX', math.floor(seconds * 1000))
