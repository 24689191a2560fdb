-- Adds text to the streams of running jobs, for those who follow them. Needs the latest token and a live lease, as nobody may
-- write into the text of another run. A full Redis refuses it, unlike what workers must do: the answer comes all the same.
--
-- KEYS  as in prelude.lua; then for each item its tokens STREAM
-- ARGV  for each item: id, token, seconds the stream lasts from now on, text (empty: only its time is set)
-- Output for each item OK, STALE (the lease was lost) or GONE (ended already, or unknown)
--
-- An entry is: attempt, a number that grows with each run that writes, also of another job with this id; run, the id and the token of that run; text.
local ids, answers = {}, {}
for arg = 3, #ARGV, 4 do ids[#ids + 1] = ARGV[arg] end
local metas = read_metas(ids, owned)
local expiries = #ids > 0 and call('ZMSCORE', LEASE, unpack(ids))

-- The number of this run. Runs that were cut off by a drain are counted nowhere else, so the last entry is asked. What an
-- earlier job with this job id has left is deleted, as is a value of another type.
local function attempt_of(key, id, m)
  local found = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  local last = not found.err and found[1] and found[1][2] or {}
  local attempt, run = shown(m.runs) + shown(m.crashes) + 1, id .. ' ' .. m.token
  local before, by = whole(last[2]), last[4] or ''
  if by == run and before then return before, run end
  if string.sub(by, 1, #id + 1) ~= id .. ' ' and (found.err or last[1]) then call('DEL', key) end
  return math.max(attempt, (before or 0) + 1), run
end

for i, id in ipairs(ids) do
  local m, token, ttl, text = metas[id], ARGV[4 * i], ARGV[4 * i + 1], ARGV[4 * i + 2]
  local key = KEYS[ITEMS + i - 1]
  if not m then
    answers[i] = 'GONE'
  elseif m.token ~= token or not expiries[i] then
    answers[i] = 'STALE'
  else
    if text ~= '' then
      local attempt, run = attempt_of(key, id, m)
      call('XADD', key, '*', 'attempt', digits(attempt), 'run', run, 'text', text)
    end
    call('EXPIRE', key, ttl)
    answers[i] = 'OK'
  end
end
return answers
