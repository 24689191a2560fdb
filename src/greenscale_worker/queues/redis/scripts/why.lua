-- Keeps in mind why a worker sends nothing, for as long as its heartbeat holds.
--
-- KEYS  as in prelude.lua; then why:<owner> STRING
-- ARGV  3 lease ms, 4 why; empty: it sends
-- Output OK
run_when_full()
if ARGV[4] == '' then call('DEL', KEYS[ITEMS]) else call('SET', KEYS[ITEMS], ARGV[4], 'PX', ARGV[3]) end
return 'OK'
