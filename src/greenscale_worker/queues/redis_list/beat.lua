-- Prolongs leases, says which are lost, and reaps those of the dead. Sent every heartbeat, jobs held or not: a clock that
-- stands still for two heartbeats means amnesty, and amnesty for ever would mean that nothing is reaped.
--
-- KEYS  1-11 as in prelude.lua
-- ARGV  2 lease ms, 3 heartbeat ms, 4 max crashes, 5 owner, 6 whether to reap (0 while more of our leases follow);
--       then id, token of each lease held
-- Output {reaped, jobs that may be claimed now, {lost id, its token, taken or gone, …}, {id buried, its job id…}}
--        taken: reaped, and perhaps claimed by another; gone: cancelled or settled
local lease_ms, beat_ms, max_crashes, owner = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
run_when_full()
tick(lease_ms, beat_ms)
local lost = {}
for arg = 7, #ARGV, 2 do
  local id = ARGV[arg]
  local m = read_meta(id)
  if m and m.token == ARGV[arg + 1] and call('ZSCORE', LEASE, id) then
    call('ZADD', LEASE, digits(now + lease_ms), id)
  else
    lost[#lost + 1] = id
    lost[#lost + 1] = ARGV[arg + 1]
    lost[#lost + 1] = m and 'taken' or 'gone'
  end
end
local reaped, buried = 0, {}
if ARGV[6] == '1' then reaped, buried = reap(max_crashes) end
call('ZADD', WORKERS, digits(now), owner)
call('ZREMRANGEBYSCORE', WORKERS, '-inf', digits(now - 2 * lease_ms))
if reaped > 0 then ring('ready') end
local claimable = 0
if call('HEXISTS', CONTROL, 'paused') == 0 then
  claimable = call('ZCARD', READY) + call('ZCARD', SUSPECT) + call('ZCOUNT', DELAYED, '-inf', digits(now))
end
return {reaped, claimable, lost, buried}
