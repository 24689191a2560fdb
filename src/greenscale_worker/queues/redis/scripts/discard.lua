-- Deletes dead letters by their ids.
--
-- KEYS  as in prelude.lua
-- ARGV  3 the counter to add them to, then ids
-- Output how many were deleted
local gone = 0
for arg = 4, #ARGV do
  local letter = call('HGET', DEAD, ARGV[arg])
  if letter then
    letters.drop(ARGV[arg], (letters.open(letter)))
    gone = gone + 1
  end
end
if gone > 0 then increment(ARGV[3], gone) end
return gone
