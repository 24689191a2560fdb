-- Reads records, all at one moment, and tells which failed jobs are open again: replayed, but not claimed since.
--
-- KEYS  as in prelude.lua; then for each job its record HASH
-- ARGV  3 … job ids
-- Output for each {whether it was replayed (1 or 0), field, value, …}; no fields if there is no record, or the key has another
--        type
local found = {}
for i = 3, #ARGV do
  local fields = redis.pcall('HGETALL', KEYS[ITEMS + i - 3])
  if fields.err then fields = {} end
  local state
  for at = 1, #fields, 2 do
    if fields[at] == 'state' then state = fields[at + 1] end
  end
  table.insert(fields, 1, state == 'failed' and bound_elsewhere(ARGV[i], '') and 1 or 0)
  found[#found + 1] = fields
end
return found
