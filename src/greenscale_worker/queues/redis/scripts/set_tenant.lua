-- Sets or deletes a tenant's entry. A deleted one's jobs keep their place in its line, and are served with weight 1.
--
-- KEYS  as in prelude.lua
-- ARGV  3 name, 4 the entry (empty: it is deleted; see turns.lua), 5 how many entries there may be
-- Output 1; 0: there are too many
local name, entry, most, entries = ARGV[3], ARGV[4], tonumber(ARGV[5]), 0
local refused = is_foreign(FLOW, 'hash')
if refused then return refused end
local fields = call('HGETALL', FLOW)
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 7) == 'tenant|' and fields[i] ~= 'tenant|' .. name then entries = entries + 1 end
end
if entry ~= '' then
  if entries >= most then return 0 end
  call('HSET', FLOW, 'tenant|' .. name, entry)
  call('HSET', CONTROL, 'tenants', '1')
  ring('ready')  -- its jobs may be held back no more
else
  call('HDEL', FLOW, 'tenant|' .. name, 'bucket|' .. name, 'turn|interactive|' .. name, 'turn|standard|' .. name,
       'turn|background|' .. name)
  if entries == 0 and turns then call('HSET', CONTROL, 'tenants', '0') end
  ring('ready')
end
return 1
