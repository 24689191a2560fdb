-- Counts dead letters by code.
--
-- KEYS  as in prelude.lua
-- ARGV  3 code after which to continue (empty: from the beginning), 4 how many codes at most
-- Output {code, how many, …}, in order
local after, counts = ARGV[3], {}
local from = after == '' and '[c\0' or '[c\0' .. after .. '\1'
for _ = 1, tonumber(ARGV[4]) do
  local first = call('ZRANGE', INDEX, from, '(c\1', 'BYLEX', 'LIMIT', 0, 1)[1]
  if not first then break end
  local code = string.match(first, '^c%z(%Z*)')
  from = '[c\0' .. code .. '\1'
  push(counts, code, call('ZLEXCOUNT', INDEX, '[c\0' .. code .. '\0', '(c\0' .. code .. '\1'))
end
return counts
