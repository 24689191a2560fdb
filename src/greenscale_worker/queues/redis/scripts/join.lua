-- Gives a retry the job of an equal request whose client has gone: has left, or waited at a gateway that is dead.
--
-- KEYS  as in prelude.lua; then gateways and alike (see attendance.lua)
-- ARGV  3 gateway, 4 number of the new client; asked again with the same number, it answers the same
-- Output {job id, empty if there is none; how many clients wait for such jobs}
run_when_full()
local MOST_ALIKE = 1000  -- that are looked at
local gateway, gateways, alike = ARGV[3], KEYS[ITEMS], KEYS[ITEMS + 1]
local own, waiting = ' ' .. gateway .. ' ' .. ARGV[4], 0
local has_gone = call('ZRANGEBYSCORE', alike, '-inf', '(-' .. NOW, 'LIMIT', 0, 1)[1]
show_alive(gateways, gateway)
for _, member in ipairs(call('ZRANGEBYSCORE', alike, '(' .. NOW, '+inf', 'LIMIT', 0, MOST_ALIKE)) do
  if string.sub(member, -#own) == own then return {string.match(member, '^%S+'), 0} end
  if call('ZSCORE', gateways, string.match(member, ' (%S+) ') or '') then
    waiting = waiting + 1
  else
    has_gone = has_gone or member
  end
end
if not has_gone then return {'', waiting} end
local job_id = string.match(has_gone, '^%S+')
call('ZREM', alike, has_gone)
attend(alike, job_id .. own)
return {job_id, 0}
