-- Writes the record of a job that a script has buried: that script could not declare the record's name.
--
-- KEYS  as in prelude.lua; then the record HASH
-- ARGV  3 id, 4 job id, 5 seconds the record lasts
-- Output OK, or GONE where the record is another run's by now
local id, job_id, record = ARGV[3], ARGV[4], KEYS[ITEMS]
local letter = call('HGET', DEAD, id)
local state = call('TYPE', record).ok == 'hash' and call('HGET', record, 'state')
local header = letter and letters.open(letter)
if not header or bound_elsewhere(job_id, id) or not (state == 'running' or state == 'delayed' or state == 'held') then return 'GONE' end
run_when_full()
write_record(record, ARGV[5], false, 'state', 'failed', 'crashes', header.crashes, 'finished_ms', header.died_ms,
             'error_code', header.code, 'error_message', header.message)
ended(job_id, 'failed', header.code, header.died_ms)
tell_ends()
return 'OK'
