-- Deletes the oldest of the dead letters selected, a batch at a time, without reading their payloads.
--
-- KEYS  as in prelude.lua
-- ARGV  3 code, 4 since ms, 5 younger than ms, 6 older than ms (each may be empty), 7 how many letters to leave (empty: any
--       number), 8 how many to delete at most, 9 the counter to add them to
-- Output {how many were deleted, 1 if there may be more}
local low, high, start = letters.range(ARGV[3], ARGV[4], ARGV[5], ARGV[6])
local most, gone = tonumber(ARGV[8]), 0
if ARGV[7] ~= '' then most = math.min(most, call('HLEN', DEAD) - tonumber(ARGV[7])) end
if most <= 0 then return {0, 0} end
local members = call('ZRANGE', INDEX, low, high, 'BYLEX', 'LIMIT', 0, most)
for _, member in ipairs(members) do
  local id = string.sub(member, start)
  local letter = call('HGET', DEAD, id)
  call('ZREM', INDEX, member)
  if letter then
    letters.drop(id, (letters.open(letter)))
    gone = gone + 1
  end
end
if gone > 0 then increment(ARGV[9], gone) end
return {gone, #members == most and 1 or 0}
