-- Puts a dead letter back to the head of the queue, with its counters at zero.
--
-- KEYS  1-11 as in prelude.lua
-- ARGV  2 id
-- Output OK or GONE
local letter = call('HGET', DEAD, ARGV[2])
if not letter then return 'GONE' end
local header, payload = open_letter(letter)
local job_id = bound_elsewhere(header.job_id, ARGV[2]) and '' or header.job_id
call('HDEL', DEAD, ARGV[2])
call('HSET', OPEN, ARGV[2], payload)
requeue(ARGV[2], {token = '', owner = '', tries = 0, crashes = 0, first = digits(now), job_id = job_id})
-- Its record says that it has failed; bound, it can be cancelled nevertheless.
if job_id ~= '' then call('HSET', BOUND, job_id, ARGV[2]) end
ring('ready')
return 'OK'
