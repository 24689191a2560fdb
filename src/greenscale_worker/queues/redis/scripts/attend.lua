-- Shows that a gateway lives, and notes what has become of clients that it waits for jobs for.
--
-- KEYS  as in prelude.lua; then gateways, and for each change the alike ZSET of its job (see attendance.lua)
-- ARGV  3 gateway; then for each change: member, and what it is: waits (it is found for longer), left (it may be joined) or over
-- Output for each change 1; 0: the job is no longer this client's, as another has joined it, or it was not found for too long
run_when_full()
local answers, gateways = {}, KEYS[ITEMS]
show_alive(gateways, ARGV[3])
for arg = 4, #ARGV, 2 do
  local alike, member, change = KEYS[ITEMS + arg / 2 - 1], ARGV[arg], ARGV[arg + 1]
  local is_own = call('ZSCORE', alike, member)
  if is_own and change == 'over' then
    call('ZREM', alike, member)
  elseif is_own then
    attend(alike, member, change == 'left')
  end
  answers[#answers + 1] = is_own and 1 or 0
end
return answers
