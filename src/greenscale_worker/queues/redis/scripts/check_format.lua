-- Returns the format of the queue's keys, and sets it if there is none yet.
--
-- KEYS  as in prelude.lua; then one of each other kind of key, so that a user without rights to them is refused here
-- ARGV  3 format of a new queue
-- Output the format in use
run_when_full()
if call('HSETNX', CONTROL, 'format', ARGV[3]) == 1 and ARGV[3] == '2' then begin_format_2() end
return call('HGET', CONTROL, 'format')
