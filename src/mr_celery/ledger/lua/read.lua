-- Reads all that is held of one job. Answers: its record and its payload, as names and values in turns.
return {redis.call('HGETALL', record), redis.call('HGETALL', payload)}
