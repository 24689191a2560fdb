-- Puts a dead letter back to the head of the queue, with its counters at zero.
--
-- KEYS  1-11 as in prelude.lua
-- ARGV  2 id
-- Output OK or GONE
local letter = call('HGET', DEAD, ARGV[2])
if not letter then return 'GONE' end
call('HDEL', DEAD, ARGV[2])
call('HSET', OPEN, ARGV[2], string.sub(letter, string.find(letter, '\n', 1, true) + 1))
requeue(ARGV[2], {token = '', owner = '', tries = 0, crashes = 0, first = digits(now), job_id = ''})
call('PUBLISH', BELL, 'ready')
return 'OK'
