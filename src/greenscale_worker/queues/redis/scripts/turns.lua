-- Tenants with an entry, part of every script: their lines of unclaimed jobs, and what they have in flight. While there is neither an
-- entry nor such a job, `control` has no field `tenants`, `turns` is nil, and nothing of this is read.
--
-- flow   tenant|<name> -> weight, most jobs in flight, requests and tokens a minute (0: no limit), with blanks between them
--        bucket|<name> -> what its budgets hold in calls and tokens, when that was in ms of the queue's time, and the mean of its
--                         answers' tokens
-- turns  w|<class>|<name>|<number>  a job in the tenant's line of this class, in order; its payload is in turns:payload under this
--                                   member
--        l|<name>|<id>              a job from a line that was claimed and has not ended: it counts as in flight, so that those that
--                                   are tried again never take the tenant over its limit
if control.tenants then
  local refused = is_foreign(TURNS, 'zset') or is_foreign(TURN_PAYLOADS, 'hash')
  if refused then return refused end
  turns = {}
  local MOST_LINES, MOST_WEIGHT, CHECKED = 1000, 1000, 16  -- of lines: as many as there may be entries
  local MINUTE, BURST = 60000, 10000  -- ms; a budget holds what comes in so long, or one
  local MOST_DEBT = 60                -- minutes
  local MOST_MEAN = 1e6               -- tokens of an answer
  local entries, buckets, number = {}, {}, nil

  -- What a budget holds by now; nil: there is none. What cannot be read, or was written later than now, is full.
  local function filled(text, per_minute, passed)
    if per_minute == 0 then return nil end
    local most, amount = math.max(1, per_minute * BURST / MINUTE), tonumber(text or nil)
    if not amount or passed < -MINUTE or not (amount > -MOST and amount < most) then return most end
    return math.min(most, math.max(-MOST_DEBT * per_minute, amount) + math.max(0, passed) * per_minute / MINUTE)
  end

  local function until_positive(amount, per_minute) return math.ceil((1e-3 - amount) * MINUTE / per_minute) end

  -- The range of members that begin so; `prefix` ends with |.
  local function range(prefix) return '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '}' end

  -- How many members begin so.
  function turns.count(prefix) return call('ZLEXCOUNT', TURNS, range(prefix)) end

  -- A tenant's entry; nil if it has none. One that cannot be read limits nothing.
  function turns.entry(tenant)
    if entries[tenant] == nil then
      local text = redis.pcall('HGET', FLOW, 'tenant|' .. tenant)
      if type(text) ~= 'string' then text = nil end
      local weight, most, requests, tokens = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+)$')
      weight = whole(weight) or 1
      entries[tenant] = text ~= nil and {weight = math.min(math.max(weight, 1), MOST_WEIGHT), most = whole(most) or 0, requests = whole(requests) or 0,
                                  tokens = whole(tokens) or 0}
    end
    return entries[tenant] or nil
  end

  -- Puts a job into its tenant's line. The number is another one for each, in order; a member that is there is never overwritten.
  function turns.push(class, tenant, payload)
    number = math.max((number or whole(call('HGET', CONTROL, 'turn')) or 0) + 1, micros)
    local function named() return 'w|' .. class .. '|' .. tenant .. '|' .. string.format('%016.0f', number) end
    while call('HSETNX', TURN_PAYLOADS, named(), payload) == 0 do number = number + 1 end
    call('ZADD', TURNS, '0', named())
    call('HSET', CONTROL, 'turn', digits(number))
  end

  -- The tenants of a class of which a job waits, with the oldest of each: tenant, member, … A member that none of our scripts wrote
  -- is deleted; a heartbeat looks after its payload.
  function turns.lines(class)
    local prefix, found, deleted = 'w|' .. class .. '|', {}, 0
    local low, high = range(prefix)
    while #found < 2 * MOST_LINES and deleted < BATCH do
      local member = call('ZRANGE', TURNS, low, high, 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then break end
      local tenant = turns.tenant_of(member)
      if tenant then
        push(found, tenant, member)
        low = '(' .. prefix .. tenant .. '}'
      else
        call('ZREM', TURNS, member)
        deleted = deleted + 1
      end
    end
    return found
  end

  -- The tenants that have jobs in flight.
  function turns.busy()
    local found, low, high = {}, range('l|')
    while #found < MOST_LINES do
      local member = call('ZRANGE', TURNS, low, high, 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then break end
      found[#found + 1] = string.match(member, '^l|([^|]*)') or ''
      low = '(l|' .. found[#found] .. '}'
    end
    return found
  end

  -- The tenant of a member of a line, and its class; nil if it is none of ours.
  function turns.tenant_of(member)
    local class, tenant = string.match(member, '^w|(%l+)|([%l%d][%l%d-]*)|' .. string.rep('%d', 16) .. '$')
    if tenant and #tenant <= 32 and (LISTS[class] or class == 'standard') then return tenant, class end
  end

  -- The first job in a tenant's line.
  function turns.first(class, tenant)
    local low, high = range('w|' .. class .. '|' .. tenant .. '|')
    return call('ZRANGE', TURNS, low, high, 'BYLEX', 'LIMIT', 0, 1)[1]
  end

  -- Notes that a job of a line was claimed.
  function turns.claimed(class, tenant, id)
    call('HSET', CLASS, id, class .. ' ' .. tenant .. ' 0')
    call('ZADD', TURNS, '0', 'l|' .. tenant .. '|' .. id)
  end

  -- Deletes what is known of claimed jobs.
  function turns.forget(ids)
    local members = {}
    for id, text in pairs(pick(CLASS, ids)) do
      local tenant = string.match(text or '', '^%l+ ([%l%d-]+)')
      if tenant then members[#members + 1] = 'l|' .. tenant .. '|' .. id end
    end
    call_with('ZREM', TURNS, members)
  end

  -- Of the oldest jobs in flight behind a member (of a tenant, or of all), deletes those that have ended without a word of it, as by
  -- other programs and by workers of the previous version. Returns how many, and the last member.
  function turns.drop_ended(prefix, behind, most)
    local low, high = range(prefix)
    if behind and string.sub(behind, 1, 1) == '(' then low = behind end
    local members, ids, ended_ones = call('ZRANGE', TURNS, low, high, 'BYLEX', 'LIMIT', 0, most), {}, {}
    for i, member in ipairs(members) do ids[i] = string.match(member, '^l|[^|]*|(.*)$') or '' end
    local known = pick(META, ids)
    for i, member in ipairs(members) do
      if not known[ids[i]] then ended_ones[#ended_ones + 1] = member end
    end
    call_with('ZREM', TURNS, ended_ones)
    return #ended_ones, members[#members]
  end

  -- How many jobs a tenant may have in flight besides those that it has. Once it has as many as it may, no script looks again.
  function turns.free(tenant)
    local entry = turns.entry(tenant)
    if not entry or entry.most == 0 then return math.huge end
    if entry.is_full then return 0 end
    local free = entry.most - turns.count('l|' .. tenant .. '|')
    if free <= 0 then free = free + turns.drop_ended('l|' .. tenant .. '|', nil, CHECKED) end
    entry.is_full = free <= 0
    return math.max(free, 0)
  end

  -- What a tenant's budgets hold: calls and tokens, each nil without one; filled by the queue's time.
  local function bucket_of(tenant)
    local entry = turns.entry(tenant)
    if not entry or entry.requests + entry.tokens == 0 then return nil end
    if not buckets[tenant] then
      local text = redis.pcall('HGET', FLOW, 'bucket|' .. tenant)
      local calls, tokens, at, mean = string.match(type(text) == 'string' and text or '', '^(%S+) (%S+) (%d+) (%d+)$')
      local passed = queue_now - (whole(at) or 0)
      buckets[tenant] = {entry = entry, calls = filled(calls, entry.requests, passed),
                         tokens = filled(tokens, entry.tokens, passed), mean = (whole(mean) or MOST) <= MOST_MEAN and tonumber(mean) or 0}
    end
    return buckets[tenant]
  end

  -- Charges a tenant for calls and tokens; less than none: gives them back.
  local function charge(tenant, bucket, calls, tokens)
    bucket.calls = bucket.calls and bucket.calls - calls
    bucket.tokens = bucket.tokens and bucket.tokens - tokens
    redis.pcall('HSET', FLOW, 'bucket|' .. tenant,
                string.format('%.3f %.3f %.0f %.0f', bucket.calls or 0, bucket.tokens or 0, queue_now, bucket.mean))
  end

  -- The tenant of a claimed job with its budgets, and what it was charged for the job; nil: it has none.
  local function account(id)
    local class, tenant, tokens = string.match(call('HGET', CLASS, id) or '', '^(%l+) ([%l%d-]+) (%d*)$')
    local bucket = tenant and bucket_of(tenant)
    if bucket then return tenant, bucket, whole(tokens) or 0, class end
  end

  -- Charges a job's tenant for a call that is about to be made: by the payload's bytes, and the mean of its answers.
  function turns.begins(id, payload)
    local tenant, bucket, _, class = account(id)
    if not tenant then return end
    local tokens = math.floor(#payload / 4 + bucket.mean)
    -- What a debt forgets is not given back either.
    if bucket.tokens then tokens = math.max(0, math.min(tokens, math.floor(bucket.tokens) + MOST_DEBT * bucket.entry.tokens)) end
    charge(tenant, bucket, 1, tokens)
    call('HSET', CLASS, id, class .. ' ' .. tenant .. ' ' .. digits(tokens))
  end

  -- Puts that right once a job's call has ended: by the tokens that were used, if they are known. `spent`: see settle.lua; without it
  -- there was no call. `again`: the call failed, and the next one is charged for itself.
  function turns.ends(id, spent, again)
    local tenant, bucket, charged = account(id)
    if not tenant then return end
    local ms, prompt, completion = string.match(spent or '', '^%d+ (%d+) (%d+) (%d+)')
    local used = (tonumber(prompt) or 0) + (tonumber(completion) or 0)
    local called = used > 0 or (tonumber(ms) or 0) > 0
    if used > 0 then bucket.mean = bucket.mean == 0 and tonumber(completion) or math.ceil(0.9 * bucket.mean + 0.1 * completion) end
    local tokens = used > 0 and used - charged or (again or not called) and -charged or 0
    charge(tenant, bucket, called and 0 or -1, tokens)
  end

  -- What holds a tenant back (in_flight, requests, tokens, or nothing: empty) and for how many ms, and what is left of its budgets.
  function turns.held(tenant)
    local bucket = bucket_of(tenant)
    local calls, tokens = bucket and bucket.calls, bucket and bucket.tokens
    if calls and calls <= 0 then return 'requests', until_positive(calls, bucket.entry.requests), calls, tokens end
    if tokens and tokens <= 0 then return 'tokens', until_positive(tokens, bucket.entry.tokens), calls, tokens end
    return turns.free(tenant) > 0 and '' or 'in_flight', 0, calls, tokens
  end

  -- Deletes what is kept of turns and budgets, once there is neither an entry nor a job.
  function turns.clear()
    local fields, kept = redis.pcall('HGETALL', FLOW), {}
    for i = 1, fields.err and 0 or #fields, 2 do
      local is_ours = string.find(fields[i], '^turn|') or string.find(fields[i], '^bucket|')
      if is_ours and #kept < 4 * MOST_LINES then kept[#kept + 1] = fields[i] end
    end
    call_with('HDEL', FLOW, kept)
  end

  -- How many jobs in lines may be claimed now.
  function turns.claimable()
    local sum, free = 0, {}
    for _, class in ipairs({'interactive', 'standard', 'background'}) do
      local lines = turns.lines(class)
      for i = 1, #lines, 2 do
        local tenant = lines[i]
        free[tenant] = free[tenant] or turns.held(tenant) == '' and turns.free(tenant) or 0
        local some = math.min(turns.count('w|' .. class .. '|' .. tenant .. '|'), free[tenant])
        sum, free[tenant] = sum + some, free[tenant] - some
      end
    end
    return sum
  end
end
