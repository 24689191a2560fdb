-- Returns dead letters, a page at a time; payloads only on request.
--
-- KEYS  as in prelude.lua
-- ARGV  3 code, 4 since ms, 5 younger than ms, 6 older than ms (each may be empty), 7 latest or oldest first,
--       8 where to continue (empty: at the beginning), 9 how many, 10 bytes after which to stop, 11 whether payloads are wanted,
--       12 id of a letter behind which to begin (empty: at the beginning)
-- Output {how many there are in all, where to continue (empty: that was all), {id, header, payload, …}}
--        payload: empty if not wanted, or lost
local code, order, from, n, most = ARGV[3], ARGV[7], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
local low, high, start = letters.range(code, ARGV[4], ARGV[5], ARGV[6])
local total = call('ZLEXCOUNT', INDEX, low, high)
if n == 0 then return {total, '', {}} end
if from == '' and ARGV[12] ~= '' then
  local letter = call('HGET', DEAD, ARGV[12])
  local header = letter and letters.open(letter)
  from = header and letters.members(ARGV[12], header)[code == '' and 1 or 2] or ''
end
local members
if order == 'latest' then
  members = call('ZRANGE', INDEX, from == '' and high or '(' .. from, low, 'BYLEX', 'REV', 'LIMIT', 0, n)
else
  members = call('ZRANGE', INDEX, from == '' and low or '(' .. from, high, 'BYLEX', 'LIMIT', 0, n)
end
local found, bytes = {}, 0
for i, member in ipairs(members) do
  local id = string.sub(member, start)
  local letter = call('HGET', DEAD, id)
  if letter then
    local header, behind = letters.open(letter)
    if not header then
      run_when_full()
      id, header, behind = letters.mend(id, letter)
    end
    local payload = ARGV[11] == '1' and letters.payload(id, behind) or ''
    found[#found + 1] = id
    found[#found + 1] = cjson.encode(header)
    found[#found + 1] = payload
    bytes = bytes + #letter + #payload
  end
  if bytes >= most and i < #members then return {total, member, found} end
end
return {total, #members == n and members[n] or '', found}
