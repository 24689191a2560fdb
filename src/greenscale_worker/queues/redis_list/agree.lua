-- Says which format the queue's keys have, and sets it where there is none yet.
--
-- KEYS  1-11 as in prelude.lua
-- ARGV  2 format that this version knows
-- Output the format in use
call('HSETNX', CONTROL, 'format', ARGV[2])
return call('HGET', CONTROL, 'format')
