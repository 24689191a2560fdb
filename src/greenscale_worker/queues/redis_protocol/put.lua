-- Appends jobs, each with a record that says it is waiting, before any worker can have touched it.
--
-- KEYS  as in prelude.lua; then for each job its record HASH
-- ARGV  3 seconds a live record lasts (0: none is written);
--       then for each job: job id, payload
-- Output how much there is, as producers count it
local ttl, key = tonumber(ARGV[3]), ITEMS
for arg = 4, #ARGV, 2 do
  -- First of all, so that a full Redis refuses: it would not once a script has written.
  store.push(ARGV[arg + 1])
  if ttl > 0 and not bound_elsewhere(ARGV[arg], '') then
    call('DEL', KEYS[key])
    write_record(KEYS[key], ttl, {'state', 'waiting', 'submitted_ms', NOW})
  end
  key = key + 1
end
return store.length()
