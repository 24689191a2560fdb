-- Shared by the scripts that append jobs.

local rung = false

-- Appends a job to its class; rings the bell if workers do not wait for that.
local function append(class, payload)
  if not LISTS[class] then return store.push(payload) end
  call('LPUSH', LISTS[class], payload)
  if not rung then ring('ready') end
  rung = true
end
