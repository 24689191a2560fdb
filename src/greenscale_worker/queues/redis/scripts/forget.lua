-- Deletes what is kept of jobs that have ended: record, answers, the text they have shown. Open jobs are left, as are those without
-- a record, which may be waiting.
--
-- KEYS  as in prelude.lua; then for each job its record HASH, its result and body STRING and its tokens STREAM
-- ARGV  3 … job ids
-- Output how many there were
local forgotten = 0

local function forget_ended(job_id, first)
  local record = KEYS[first]
  local state = call('TYPE', record).ok == 'hash' and call('HGET', record, 'state')
  if state ~= 'succeeded' and state ~= 'failed' and state ~= 'cancelled' then return end
  if bound_elsewhere(job_id, '') or length[LATER] ~= 0 and call('ZSCORE', LATER, job_id) then return end
  call('DEL', unpack(KEYS, first, first + 3))
  if length[NOTIFY] ~= 0 then call('HDEL', NOTIFY, job_id) end  -- its end was told, or never will be
  forgotten = forgotten + 1
end

for arg = 3, #ARGV do forget_ended(ARGV[arg], ITEMS + 4 * (arg - 3)) end
return forgotten
