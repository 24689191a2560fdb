-- Returns jobs that were claimed and have not ended, from one place at a time, in order of their score there.
--
-- KEYS  as in prelude.lua
-- ARGV  3 which: ready, suspect, delayed, lease or held, 4 the score behind which to begin (empty: at the beginning),
--       5 how many; all others with the last one's score are returned, too
-- Output {score behind which to continue (empty: that was all), {id, job id, owner, calls that failed, crashes, when it was first
--        claimed in ms, when it is due in ms (0: it is not delayed), …}}
local place = ({ready = READY, suspect = SUSPECT, delayed = DELAYED, lease = LEASE, held = HELD})[ARGV[3]]
local from, n = ARGV[4] == '' and '-inf' or '(' .. ARGV[4], tonumber(ARGV[5])
local page = call('ZRANGEBYSCORE', place, from, '+inf', 'WITHSCORES', 'LIMIT', 0, n)
local last = #page == 2 * n and page[#page] or ''
local ids, dues, MOST_AT_ONCE = {}, {}, 1000

local function add_to_page(id, score)
  if dues[id] then return end
  ids[#ids + 1] = id
  dues[id] = place == DELAYED and digits(math.min(math.max(0, tonumber(score) - (queue_now - now)), 1e15)) or '0'
end

for i = 1, #page, 2 do add_to_page(page[i], page[i + 1]) end
if last ~= '' then
  for _, id in ipairs(call('ZRANGEBYSCORE', place, last, last)) do add_to_page(id, last) end
end

local found = {}
for start = 1, #ids, MOST_AT_ONCE do
  local metas = read_metas({unpack(ids, start, math.min(start + MOST_AT_ONCE - 1, #ids))})
  for i = start, math.min(start + MOST_AT_ONCE - 1, #ids) do
    local m = metas[ids[i]]
    if m then found[#found + 1] = {ids[i], m.job_id, m.owner, m.runs, m.crashes, m.first, dues[ids[i]]} end
  end
end
return {last, found}
