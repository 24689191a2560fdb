-- A list keeps what nobody has claimed; the payloads of claimed jobs move to a hash. Ids are given with the first claim.
--
-- KEYS  1 list  LIST  payloads as producers pushed them
--       11 open HASH  id -> payload: every claimed and unsettled job (public: KEDA counts it)
-- ARGV  2 end of the list that is oldest: RIGHT or LEFT
local OPEN, ITEMS = KEYS[11], 12
local POP, PUSH = 'RPOP', 'LPUSH'
if ARGV[2] == 'LEFT' then POP, PUSH = 'LPOP', 'RPUSH' end
local last
local refused = foreign('list', 'hash')
if refused then return refused end

-- Where a job stands at the head of the queue.
function store.place(id) return id end

-- Whether a claimed job is still there.
function store.has(id) return call('HEXISTS', OPEN, id) == 1 end

-- A claimed job's payload.
function store.payload(id) return call('HGET', OPEN, id) end

-- The oldest job that nobody has claimed: its id and payload; nil where there is none.
function store.take()
  local payload = call(POP, SOURCE)
  if not payload then return nil end
  last = math.max((last or tonumber(call('HGET', CONTROL, 'last') or '0')) + 1, micros)  -- even after an older snapshot
  local id = digits(last)
  call('HSET', OPEN, id, payload)
  return id, payload
end

-- Ends a claim.
function store.taken()
  call('HSET', CONTROL, 'last', digits(last or tonumber(call('HGET', CONTROL, 'last') or '0')))
  return ''
end

-- Forgets a job that has ended.
function store.drop(id) call('HDEL', OPEN, id) end

-- Takes a dead letter's payload back; gives the job's id from now on.
function store.keep(id, payload)
  call('HSET', OPEN, id, payload)
  return id
end

function store.push(payload) call(PUSH, SOURCE, payload) end

function store.length() return call('LLEN', SOURCE) end

-- What only a consumer group keeps account of: whose a job is, who has left, jobs that were taken past us.
function store.own() end

function store.dismiss() return true end

function store.adopt() return 0 end

