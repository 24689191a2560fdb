-- Shared by the scripts that write, read or delete dead letters.
local letters = {}

-- A dead letter's header, and its payload if that follows behind a line feed (format 1; JSON escapes line feeds in the header,
-- so free text cannot contain one). Other programs may write to this hash: anything but a letter of ours has no header.
function letters.open(letter)
  local feed = string.find(letter, '\n', 1, true)
  local fine, found = pcall(cjson.decode, feed and string.sub(letter, 1, feed - 1) or letter)
  if not fine or type(found) ~= 'table' then return nil end
  local header = {}
  for _, name in ipairs({'code', 'message', 'job_id', 'token'}) do
    header[name] = found[name]
    if type(found[name]) ~= 'string' then return nil end
  end
  for name, most in pairs({tries = 1e12, crashes = 1e12, first_claimed_ms = 1e15, died_ms = 1e15}) do
    local number = tonumber(found[name])
    if not number or not (number >= 0 and number < most) then return nil end
    header[name] = most == 1e15 and digits(math.floor(number)) or math.floor(number)
  end
  header.class = LISTS[found.class] and found.class or nil
  header.tenant = type(found.tenant) == 'string' and string.match(found.tenant, '^[%l%d-]+$') or nil
  header.notify = found.notify == 1 and 1 or nil
  return header, feed and string.sub(letter, feed + 1)
end

-- A letter's members in the index: by time, by code and time, and by job id.
function letters.members(id, header)
  local died = string.format('%016.0f', header.died_ms)
  local members = {'t\0' .. died .. '\0' .. id, 'c\0' .. string.gsub(header.code, '%z', ' ') .. '\0' .. died .. '\0' .. id}
  if string.match(header.job_id, '^[%w._:-]+$') then members[3] = 'j\0' .. header.job_id .. '\0' .. id end
  return members
end

function letters.enter(id, header)
  local words = {}
  for _, member in ipairs(letters.members(id, header)) do push(words, '0', member) end
  redis.pcall('ZADD', INDEX, unpack(words))
end

-- Writes a letter, without its payload if that is lost. If the payloads' key has a foreign type, the payload follows the header;
-- if the index' has, tidy.lua enters the letter later.
function letters.write(id, header, payload)
  local apart = V2 and payload and redis.pcall('HSET', PAYLOADS, id, payload)
  local behind = payload and type(apart) ~= 'number' and '\n' .. payload or ''
  call('HSET', DEAD, id, cjson.encode(header) .. behind)
  letters.enter(id, header)
end

-- Deletes a letter. If it has no header, tidy.lua removes its members from the index.
function letters.drop(id, header)
  call('HDEL', DEAD, id)
  redis.pcall('HDEL', PAYLOADS, id)
  if header then redis.pcall('ZREM', INDEX, unpack(letters.members(id, header))) end
end

-- Makes a job a dead letter. `attempts`: how often it was run, as in its record; by default, how often its call failed. The
-- letter calls that `tries`, which cannot change: the field is public. What its end left a notice of leaves one of its next end, too,
-- once it is replayed.
local function bury(id, m, job_id, code, message, attempts)
  local notify = length[NOTIFY] ~= 0 and job_id ~= '' and not bound_elsewhere(job_id, id) and noticed(job_id, 'failed', code)
  local payload, class, tenant = store.payload(id) or '', class_of(id)
  forget({[id] = m})
  letters.write(id, {code = code, message = message, job_id = job_id, token = m.token, tries = attempts or m.runs,
                     crashes = m.crashes, first_claimed_ms = m.first, died_ms = NOW, class = class, tenant = tenant,
                     notify = notify and 1 or nil}, payload)
  increment('dead')
end
