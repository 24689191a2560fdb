-- Shared by the scripts that append jobs.

local rung = false

-- Appends a job to its class, or to its tenant's line there; rings the bell if workers do not wait for that.
local function append(class, payload, tenant)
  local has_line = turns and tenant and tenant ~= '' and turns.entry(tenant)
  if has_line then
    turns.push(LISTS[class] and class or 'standard', tenant, payload)
  elseif LISTS[class] then
    call('LPUSH', LISTS[class], payload)
  else
    return store.push(payload)
  end
  if not rung then ring('ready') end
  rung = true
end
