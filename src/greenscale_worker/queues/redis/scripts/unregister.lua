-- Removes a worker that has handed everything back.
--
-- KEYS  as in prelude.lua; then claim:<owner> STRING, lanes:<owner> STRING
-- ARGV  3 owner, 4 heartbeat ms
-- Output OK
call('DEL', KEYS[ITEMS], KEYS[ITEMS + 1])
ledger.work(ARGV[3], tonumber(ARGV[4]), 0)
ledger.write()
stand_up(ARGV[3])
flow.forget(ARGV[3])
if store.dismiss(ARGV[3]) then call('ZREM', WORKERS, ARGV[3]) end
return 'OK'
