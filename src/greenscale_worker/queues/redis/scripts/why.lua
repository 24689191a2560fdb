-- Stores why a worker makes no calls, for one lease.
--
-- KEYS  as in prelude.lua; then why:<owner> STRING
-- ARGV  3 lease ms, 4 why; empty: it makes calls
-- Output OK
run_when_full()
if ARGV[4] == '' then call('DEL', KEYS[ITEMS]) else call('SET', KEYS[ITEMS], ARGV[4], 'PX', ARGV[3]) end
return 'OK'
