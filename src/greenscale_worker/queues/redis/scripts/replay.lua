-- Puts dead letters back to the head of their class, with their counters at zero. The job is stored before its letter is deleted:
-- wherever the script fails, the job is in one of the two places.
--
-- KEYS  as in prelude.lua
-- ARGV  3 bytes after which to stop, then ids
-- Output for each id the job's id from now on; GONE: there is no such letter; LOST: its payload was deleted by another program.
--        Shorter than the list of ids if the bytes were used up.
local most, bytes, answers, rings = tonumber(ARGV[3]), 0, {}, false

local function replay(id)
  local letter = call('HGET', DEAD, id)
  if not letter then return 'GONE' end
  local header, behind = letters.open(letter)
  local payload = letters.payload(id, behind)
  if header and not payload then return 'LOST' end
  local name = header and #header.job_id <= 128 and string.match(header.job_id, '^[%w._:-]+$') or ''
  payload = payload or letter
  local m = new_meta()
  m.job_id = bound_elsewhere(name, id) and '' or name
  local kept = store.keep(id, payload, name)
  if header and turns and header.tenant then
    turns.claimed(header.class or 'standard', header.tenant, kept)
  elseif header and header.class then
    call('HSET', CLASS, kept, header.class)
    classed = true
  end
  requeue(kept, m)
  -- Its record still says `failed`; the binding makes it possible to cancel it.
  if m.job_id ~= '' then call('HSET', BOUND, m.job_id, kept) end
  if m.job_id ~= '' and header and header.notify then notify(m.job_id) end
  letters.drop(id, header)
  bytes, rings = bytes + #payload, true
  return kept
end

for arg = 4, #ARGV do
  if bytes >= most then break end
  answers[#answers + 1] = replay(ARGV[arg])
end
if rings then ring('ready') end
return answers
