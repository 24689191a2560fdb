-- Makes dead letters and their index agree, a batch at a time: first every letter is repaired and indexed, then wrong index
-- members are deleted. Does nothing if the numbers of both agree.
--
-- KEYS  as in prelude.lua
-- ARGV  3 where to continue (empty: at the beginning), 4 size of a batch
-- Output where to continue; empty: done
local from, portion = ARGV[3], tonumber(ARGV[4])
local step, where = string.sub(from, 1, 1), string.sub(from, 2)

local function in_line()
  local indexed = call('ZLEXCOUNT', INDEX, '[t\0', '(t\1')
  return call('HLEN', DEAD) == indexed and (indexed == 0 or not V2 or call('HGET', CONTROL, 'letters') == '2')
end

if from == '' then
  if in_line() then return '' end
  step, where = 'l', '0'
end
run_when_full()

if step == 'l' then
  local page = call('HSCAN', DEAD, where, 'COUNT', portion)
  for i = 1, #page[2], 2 do letters.mend(page[2][i], page[2][i + 1]) end
  return page[1] == '0' and 'i' or 'l' .. page[1]
end

local ID = {t = '^t%z%d+%z(.*)$', c = '^c%z%Z*%z%d+%z(.*)$', j = '^j%z%Z*%z(.*)$'}

local function is_right(member)
  local pattern = ID[string.sub(member, 1, 1)]
  local id = pattern and string.match(member, pattern)
  local letter = id and call('HGET', DEAD, id)
  local header = letter and letters.open(letter)
  for _, right in ipairs(header and letters.members(id, header) or {}) do
    if right == member then return true end
  end
  if id and not letter then call('HDEL', PAYLOADS, id) end
  return false
end

local members = call('ZRANGE', INDEX, where == '' and '-' or '(' .. where, '+', 'BYLEX', 'LIMIT', 0, portion)
for _, member in ipairs(members) do
  if not is_right(member) then call('ZREM', INDEX, member) end
end
if #members == portion then return 'i' .. members[portion] end
if V2 then call('HSET', CONTROL, 'letters', '2') end
return ''
