-- Ends a job that somebody no longer wants, whether it waits for a retry or runs; its worker is told by the bell, and by
-- its next heartbeat. One that was never claimed cannot be found in the list: a tombstone waits for it.
--
-- KEYS  1-11 as in prelude.lua; 12 the record HASH; 13 cancel:<job id> STRING
-- ARGV  2 job id, 3 seconds the tombstone lasts, 4 seconds the record lasts (0: none is written)
-- Output CANCELLED, FINISHED or LATER
local job_id, ttl = ARGV[2], tonumber(ARGV[4])
local id = call('HGET', BOUND, job_id)
if id and call('HEXISTS', OPEN, id) == 1 then
  forget(id, find(id))
  count('cancelled')
  if ttl > 0 then write_record(KEYS[12], ttl, {'state', 'cancelled', 'finished_ms', digits(now)}) end
  ring('gone ' .. id)
  return 'CANCELLED'
end
local state = call('TYPE', KEYS[12]).ok == 'hash' and call('HGET', KEYS[12], 'state')
if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return 'FINISHED' end
call('SET', KEYS[13], '1', 'EX', ARGV[3])
return 'LATER'
