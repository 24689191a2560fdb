-- Shared by the scripts that claim: which tenant's job is next in a class, by weight (start-time fair queuing). Each tenant has a
-- time of its own; the least is served, and then moves on by 1 / weight. The time of the class is that at which the job before was
-- served: whoever was away, or held back, goes on from there, and has saved nothing up. Jobs in no line are those of one tenant more,
-- called '', of weight 1.
--
-- flow   turn|<class> -> the time of the class; turn|<class>|<name> -> a tenant's own, at most 1 ahead
local fairness = {}
if turns then
  local TOO_LATE = 1e12  -- to be added to exactly

  local queues = {}  -- by class: a claim may come to one several times

  local function comes_before(one, other)
    return one.time < other.time or one.time == other.time and one.place < other.place
  end

  -- Begins to serve a class, or goes on; returns nil if no job waits in a line.
  function fairness.begin(class)
    if queues[class] ~= nil then return queues[class] or nil end
    local lines, found = turns.lines(class), {}
    queues[class] = false
    if #lines == 0 then return nil end
    local field, names, fields = 'turn|' .. class, {''}, {}
    for i = 1, #lines, 2 do names[#names + 1] = lines[i] end
    for i, name in ipairs(names) do fields[i] = field .. '|' .. name end
    fields[#fields + 1] = field
    local times = redis.pcall('HMGET', FLOW, unpack(fields))
    local function time_of(place) return not times.err and times[place] and tonumber(times[place]) or nil end
    local start = time_of(#fields)
    if not start or not (start >= 0 and start < TOO_LATE) then start = 0 end
    for i, name in ipairs(names) do
      local own = time_of(i)
      if not own or not (own >= start) then own = start end
      found[i] = {tenant = name, time = math.min(own, start + 1), place = i}
    end
    table.sort(found, comes_before)
    queues[class] = {field = field, time = start, tenants = found, first = 1, served = {}}
    return queues[class]
  end

  -- The tenant whose turn it is; nil if there is none left. They are in order, so that hundreds at a limit take no time of others.
  function fairness.next(queue)
    local tenant = queue.tenants[queue.first]
    if not (tenant and tenant.done) then return tenant end
    queue.first = queue.first + 1
    return fairness.next(queue)
  end

  -- Whether all tenants are done but the one whose turn it is.
  function fairness.is_last(queue) return not queue.tenants[queue.first + 1] end

  -- Notes that a job of the tenant whose turn it is was given.
  function fairness.served(queue, tenant)
    local entry = turns.entry(tenant.tenant)
    queue.time = math.max(queue.time, tenant.time)
    tenant.time = tenant.time + 1 / (entry and entry.weight or 1)
    queue.served[tenant.tenant] = tenant.time
    local tenants, i = queue.tenants, queue.first
    while tenants[i + 1] and comes_before(tenants[i + 1], tenant) do
      tenants[i], i = tenants[i + 1], i + 1
    end
    tenants[i] = tenant
  end

  -- Writes the times that have changed.
  function fairness.write(queue)
    local words = {}
    for name, time in pairs(queue.served) do push(words, queue.field .. '|' .. name, string.format('%.17g', time)) end
    if #words == 0 then return end
    queue.served = {}
    push(words, queue.field, string.format('%.17g', queue.time))
    redis.pcall('HSET', FLOW, unpack(words))
  end
end
