-- Shared by the scripts that read dead letters or move many of them; the loader puts it behind the store.
--
-- Index and letters may differ: workers of the previous version write no index, and other programs may write to `dead`. So a
-- client runs tidy.lua before it reads letters.
do
  for key, wanted in pairs({[PAYLOADS] = 'hash', [INDEX] = 'zset'}) do
    local found = call('TYPE', key).ok
    if found ~= 'none' and found ~= wanted then
      return redis.error_reply('FOREIGN ' .. key .. ' is a ' .. found .. ', a ' .. wanted .. ' is expected')
    end
  end
end

-- A letter's payload; nil if it was deleted by another program. `behind` is the payload that `letters.open` found, if any.
function letters.payload(id, behind) return behind or call('HGET', PAYLOADS, id) or nil end

-- Repairs a letter that another program wrote. Without a header it gets one, and all its bytes become the payload; an id that
-- cannot be shown is replaced. In format 2, the payload of a letter of format 1 is moved to its own key.
function letters.mend(id, letter)
  local header, behind = letters.open(letter)
  local name = #id <= 128 and string.match(id, '^[%w._:-]+$') or 'x' .. redis.sha1hex(id)
  if header and name == id and not (V2 and behind) then
    letters.enter(id, header)
    return id, header, behind
  end
  local payload = letters.payload(id, behind)
  if not header then
    payload = payload or letter
    header = {code = 'unreadable', message = 'somebody else wrote this dead letter: its header cannot be read', job_id = '',
              token = '', tries = 0, crashes = 0, first_claimed_ms = NOW, died_ms = NOW}
  end
  if name ~= id then letters.drop(id, header) end
  letters.write(name, header, payload)
  return name, header, payload
end

-- The range of the index from time `since`, or from `younger` ago, until `older` ago; all in ms, each may be empty. With a code,
-- only letters with that code.
function letters.range(code, since, younger, older)
  local prefix = code == '' and 't\0' or 'c\0' .. string.gsub(code, '%z', ' ') .. '\0'
  local function at(ms) return string.format('%016.0f', math.min(math.max(ms, 0), 1e15)) end
  local first = math.max(tonumber(since) or 0, younger ~= '' and now - tonumber(younger) or 0)
  local last = older ~= '' and prefix .. at(now - tonumber(older) + 1) or string.sub(prefix, 1, -2) .. '\1'
  return '[' .. prefix .. at(first), '(' .. last, #prefix + 18  -- where the id begins in a member
end
