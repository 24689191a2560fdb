-- Cancels a job, whether it waits for a retry, runs or is not due yet; its worker is told by the bell, and by its next heartbeat.
-- A job that was never claimed cannot be found in the list: a tombstone waits for it.
--
-- KEYS  as in prelude.lua; then the record HASH and cancel:<job id> STRING
-- ARGV  3 job id, 4 seconds the tombstone lasts, and a live record, 5 seconds a final record lasts (0: none is written)
-- Output CANCELLED, FINISHED, LATER (there is a tombstone) or UNKNOWN (there is a tombstone, too, but no record of such a job)
local job_id, live_ttl, final_ttl, record, tombstone = ARGV[3], ARGV[4], tonumber(ARGV[5]), KEYS[ITEMS], KEYS[ITEMS + 1]
local id = call('HGET', BOUND, job_id)
local is_open = id and store.has(id)
local was_later = length[LATER_PAYLOADS] ~= 0 and call('HDEL', LATER_PAYLOADS, job_id) == 1
if was_later then
  call('ZREM', LATER, job_id)
  increment('cancelled')
end
if is_open then
  forget({[id] = load_or_forget(id)})
  increment('cancelled')
end
if is_open or was_later then
  ledger.count('cancelled')
  noticed(job_id, 'cancelled')
  if final_ttl > 0 then
    write_record(record, final_ttl, false, 'state', 'cancelled', 'finished_ms', NOW)
    call('HDEL', record, 'due_ms', 'error_code', 'error_message')  -- of a failure before
    ended(job_id, 'cancelled')
  end
  ledger.write()
  tell_ends()
  if is_open then ring('gone ' .. id) end
  return 'CANCELLED'
end
local state = call('TYPE', record).ok == 'hash' and call('HGET', record, 'state')
if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return 'FINISHED' end
call('SET', tombstone, '1', 'EX', live_ttl)
if not state then return 'UNKNOWN' end
write_record(record, live_ttl, false, 'state', 'cancelling')
return 'LATER'
