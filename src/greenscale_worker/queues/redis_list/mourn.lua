-- Writes the record of a job that a script has buried: that script could not declare the record's name.
--
-- KEYS  1-11 as in prelude.lua; 12 the record HASH
-- ARGV  2 id, 3 job id, 4 seconds the record lasts
-- Output OK, or GONE where the record is another run's by now
local id, job_id = ARGV[2], ARGV[3]
local letter = call('HGET', DEAD, id)
local state = call('TYPE', KEYS[12]).ok == 'hash' and call('HGET', KEYS[12], 'state')
if not letter or bound_elsewhere(job_id, id) or (state ~= 'running' and state ~= 'delayed') then return 'GONE' end
local header = open_letter(letter)
write_record(KEYS[12], ARGV[4], {'state', 'failed', 'crashes', header.crashes, 'finished_ms', header.died_ms,
                                 'error_code', header.code, 'error_message', header.message})
return 'OK'
