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
      found[i] = {tenant = name, time = math.min(own, start + 1)}
    end
    queues[class] = {field = field, time = start, tenants = found, served = {}}
    return queues[class]
  end

  -- The tenant whose turn it is; nil if there is none left.
  function fairness.next(queue)
    local next
    for _, each in ipairs(queue.tenants) do
      if not each.done and (not next or each.time < next.time) then next = each end
    end
    return next
  end

  -- Whether all tenants but this one are done.
  function fairness.is_last(queue, tenant)
    for _, each in ipairs(queue.tenants) do
      if each ~= tenant and not each.done then return false end
    end
    return true
  end

  -- Notes that a job of a tenant was given.
  function fairness.served(queue, tenant)
    local entry = turns.entry(tenant.tenant)
    queue.time = math.max(queue.time, tenant.time)
    tenant.time = tenant.time + 1 / (entry and entry.weight or 1)
    queue.served[tenant.tenant] = tenant.time
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
