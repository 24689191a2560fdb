-- Puts a dead letter back to the head of the queue, with its counters at zero.
--
-- KEYS  as in prelude.lua
-- ARGV  3 id
-- Output the job's id from now on, or GONE
local letter = call('HGET', DEAD, ARGV[3])
if not letter then return 'GONE' end
local header, payload = open_letter(letter)
local job_id = bound_elsewhere(header.job_id, ARGV[3]) and '' or header.job_id
call('HDEL', DEAD, ARGV[3])
local id = store.keep(ARGV[3], payload, header.job_id)
local m = new_meta()
m.job_id = job_id
requeue(id, m)
-- Its record says that it has failed; bound, it can be cancelled nevertheless.
if job_id ~= '' then call('HSET', BOUND, job_id, id) end
ring('ready')
return id
