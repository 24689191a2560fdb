-- A list keeps unclaimed payloads; those of claimed jobs move to a hash. A job gets its id with its first claim.
--
-- KEYS  1 list  LIST  payloads as producers pushed them
--       28 open HASH  id -> payload: every job claimed and not settled (public: KEDA counts it)
-- ARGV  2 end of the list that is oldest: RIGHT or LEFT
local OPEN, ITEMS = KEYS[28], 29
local POP, PUSH = 'RPOP', 'LPUSH'
if ARGV[2] == 'LEFT' then POP, PUSH = 'LPOP', 'RPUSH' end
local last
local refused = foreign('list', 'hash')
if refused then return refused end
read_control()

-- Whether this is a valid id.
function store.is_id(id) return whole(id) ~= nil end

-- A job's place at the head of the queue.
function store.place(id) return store.is_id(id) and id or '0' end

-- Whether a claimed job still exists.
function store.has(id) return call('HEXISTS', OPEN, id) == 1 end

-- A claimed job's payload.
function store.payload(id) return call('HGET', OPEN, id) end

-- The oldest unclaimed jobs, n at most: {id, payload} of each.
function store.take(_, n)
  local found, kept = {}, {}
  last = last or whole(call('HGET', CONTROL, 'last')) or 0  -- before anything is popped
  for i, payload in ipairs(call(POP, SOURCE, n) or {}) do
    last = math.max(last + 1, micros)  -- even after an older snapshot
    local id = digits(last)
    found[i] = {id, payload}
    push(kept, id, payload)
  end
  call_with('HSET', OPEN, kept)
  return found
end

-- Ends a claim.
function store.taken()
  call('HSET', CONTROL, 'last', digits(last or whole(call('HGET', CONTROL, 'last')) or 0))
  return ''
end

-- Deletes jobs that have ended.
function store.drop(ids) call('HDEL', OPEN, unpack(ids)) end

-- Stores a payload as a claimed job's: a dead letter's under its old id, or one of another class under a new id (''). Returns the
-- job's id. Another program may have written the letter under an id that is invalid or in use: then the job gets a new id, too.
function store.keep(id, payload)
  local is_new = not store.is_id(id) or store.has(id)
  if is_new then
    last = math.max((last or whole(call('HGET', CONTROL, 'last')) or 0) + 1, micros)
    id = digits(last)
  end
  call('HSET', OPEN, id, payload)
  if is_new then call('HSET', CONTROL, 'last', id) end
  return id
end

function store.push(payload) call(PUSH, SOURCE, payload) end

function store.unclaimed() return call('LLEN', SOURCE) end

-- Only a consumer group tracks these: the owner of a job, workers that left, entries that other programs read.
function store.own() end

function store.dismiss() return true end

function store.strays() return {} end

