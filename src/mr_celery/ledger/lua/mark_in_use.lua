-- Marks the ledger as in use, for as long as its history lasts.
--
-- Keys:    founded
-- ARGV:    prefix, (unused), history (seconds)
-- Returns: 1 if the ledger was new, else 0
local history = tonumber(ARGV[3])
local known = redis.call('EXISTS', prefix .. 'founded')
redis.call('SET', prefix .. 'founded', 1, 'PX', math.floor(history * 1000))
return 1 - known
