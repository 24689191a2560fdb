-- Shares one look at the engine among all workers: takes or keeps the turn to look, and sets the limit that was found. The turn
-- is a lease: if its worker dies, another one takes it.
--
-- KEYS  as in prelude.lua
-- ARGV  3 owner, 4 ms for which the turn is taken, 5 limit that was found; empty: none, only the turn is asked for,
--       6 looks in a row in which nothing was waiting inside, 7 why the engine cannot be seen; empty: it can
-- Output {whether it is the owner's turn (1 or 0), ms until another may take it, jobs in flight, limit and looks as they are now;
--         empty: none}
local LONGEST_TURN = 60000  -- ms
local owner = ARGV[3]
run_when_full()
local found = redis.pcall('HMGET', FLOW, 'looker', 'engine', 'engine_calm')
if found.err then found = {} end
local ends, looker = string.match(found[1] or '', '^(%d+) (.+)$')
ends = whole(ends)
local is_taken = ends and ends > queue_now and ends <= queue_now + LONGEST_TURN and looker
if is_taken and looker ~= owner then return {0, digits(ends - queue_now), call('ZCARD', LEASE), '', ''} end

local limit, calm = whole(found[2]), whole(found[3])
if ARGV[5] == '' then
  redis.pcall('HSET', FLOW, 'looker', digits(queue_now + tonumber(ARGV[4])) .. ' ' .. owner)
elseif is_taken then
  local former = limit or 0
  limit, calm = tonumber(ARGV[5]), tonumber(ARGV[6])
  redis.pcall('HSET', FLOW, 'engine', digits(limit), 'engine_ms', digits(queue_now), 'engine_calm', digits(calm),
              'engine_why', ARGV[7])
  if limit > former then ring('ready') end
end
return {1, ARGV[4], call('ZCARD', LEASE), limit and digits(limit) or '', calm and digits(calm) or ''}
