-- Finds a dead letter by its own id, or the latest one of a job id.
--
-- KEYS  as in prelude.lua
-- ARGV  3 name, 4 whether the payload is wanted
-- Output {id, header, payload (empty if not wanted, or lost)}; empty if there is none
local id, header, behind, died = ARGV[3], nil, nil, -1

local function open(name)
  local letter = call('HGET', DEAD, name)
  if letter then return letters.open(letter) end
end

header, behind = open(id)
if not header then
  local prefix = 'j\0' .. string.gsub(ARGV[3], '%z', ' ') .. '\0'
  for _, member in ipairs(call('ZRANGE', INDEX, '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '\1', 'BYLEX')) do
    local name = string.sub(member, #prefix + 1)
    local found, payload = open(name)
    if found and tonumber(found.died_ms) >= died then
      id, header, behind, died = name, found, payload, tonumber(found.died_ms)
    end
  end
end
if not header then return {} end
return {id, cjson.encode(header), ARGV[4] == '1' and letters.payload(id, behind) or ''}
