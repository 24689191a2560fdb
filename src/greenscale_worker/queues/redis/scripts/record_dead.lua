-- Writes the record of a job that a script has buried: that script could not declare the record's key in advance.
--
-- KEYS  as in prelude.lua; then the record HASH
-- ARGV  3 id, 4 job id, 5 seconds the record lasts
-- Output OK, or GONE if the record is another run's by now
local id, job_id, record = ARGV[3], ARGV[4], KEYS[ITEMS]
local letter = call('HGET', DEAD, id)
local header = letter and letters.open(letter)
if not header or bound_elsewhere(job_id, id) then return 'GONE' end
local known = call('TYPE', record).ok == 'hash' and pick(record, {'state', 'submitted_ms', 'finished_ms'}) or {}
local died = tonumber(header.died_ms)
-- If the job was submitted again since, or ended otherwise, its record is not ours to write.
if (whole(known.submitted_ms) or 0) > died or (whole(known.finished_ms) or 0) >= died then return 'GONE' end
run_when_full()
write_record(record, ARGV[5], not known.state or known.finished_ms, 'state', 'failed', 'attempts', header.tries,
             'crashes', header.crashes, 'finished_ms', header.died_ms, 'error_code', header.code,
             'error_message', header.message)
ended(job_id, 'failed', header.code, header.died_ms)
tell_ends()
return 'OK'
