-- Reads how tenants stand: those that have an entry, a line or jobs in flight.
--
-- KEYS  as in prelude.lua
-- ARGV  3 the name of the only one that is wanted (empty: all)
-- Output for each {name, entry (empty: it has none; see turns.lua), jobs waiting of each class in order, in flight, for how many ms the
--        oldest of them has waited (empty: none waits), what holds them back and for how many ms, requests and tokens that are left
--        (empty: no limit)}
if not turns then return {} end
local CLASSES, wanted, names, entries, came = {'interactive', 'standard', 'background'}, ARGV[3], {}, {}, {}

local function see(name)
  if entries[name] == nil and (wanted == '' or name == wanted) then
    names[#names + 1] = name
    entries[name] = ''
  end
  return entries[name]
end

local fields = redis.pcall('HGETALL', FLOW)
for i = 1, fields.err and 0 or #fields, 2 do
  local name = string.match(fields[i], '^tenant|(.*)$')
  if name and see(name) then entries[name] = fields[i + 1] end
end
for _, class in ipairs(CLASSES) do
  local lines = turns.lines(class)
  for i = 1, #lines, 2 do
    local name, at = lines[i], tonumber(string.sub(lines[i + 1], -16))
    if see(name) then came[name] = math.min(came[name] or at, at) end
  end
end
for _, name in ipairs(turns.busy()) do see(name) end
table.sort(names)
local answers = {}
for i, name in ipairs(names) do
  local answer, waiting = {name, entries[name]}, 0
  for place, class in ipairs(CLASSES) do
    answer[2 + place] = turns.count('w|' .. class .. '|' .. name .. '|')
    waiting = waiting + answer[2 + place]
  end
  answer[6] = turns.count('l|' .. name .. '|')
  answer[7] = came[name] and digits(math.max(0, (micros - came[name]) / 1000)) or ''
  local held, ms, requests, tokens = turns.held(name)
  answer[8], answer[9] = waiting > 0 and held or '', digits(waiting > 0 and ms or 0)
  answer[10], answer[11] = requests and string.format('%.3f', requests) or '', tokens and string.format('%.3f', tokens) or ''
  answers[i] = answer
end
return answers
