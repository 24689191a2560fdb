-- Pauses the queue, or ends a pause, and tells KEDA at once.
--
-- KEYS  as in prelude.lua; then room LIST
-- ARGV  3 pause, zero (also: no worker is needed) or resume
-- Output OK
run_when_full()
if ARGV[3] == 'resume' then
  call('HDEL', CONTROL, 'paused', 'scaled')
  control.paused = false
else
  call('HSET', CONTROL, 'paused', '1')
  control.paused = '1'
  if ARGV[3] == 'zero' then call('HSET', CONTROL, 'scaled', '1') else call('HDEL', CONTROL, 'scaled') end
end
begin_flow()
flow.read()
flow.write_room(KEYS[ITEMS], flow.room(ARGV[3] == 'zero'))
if ARGV[3] == 'resume' then ring('resumed') end
return 'OK'
