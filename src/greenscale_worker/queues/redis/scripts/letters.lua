-- Shared by the scripts that look at dead letters, or move many of them; it stands behind the store.
--
-- The index and the letters may part: workers of the version before know no index, and anybody can write to `dead`. So whatever
-- looks at letters first lets tidy.lua bring the two in line.
do
  for key, wanted in pairs({[PAYLOADS] = 'hash', [INDEX] = 'zset'}) do
    local found = call('TYPE', key).ok
    if found ~= 'none' and found ~= wanted then
      return redis.error_reply('FOREIGN ' .. key .. ' is a ' .. found .. ', a ' .. wanted .. ' is expected')
    end
  end
end

-- A letter's payload; nil where somebody has deleted it. `behind` is what `letters.open` found.
function letters.payload(id, behind) return behind or call('HGET', PAYLOADS, id) or nil end

-- Mends a letter that somebody else wrote: what has no header gets one, and all its bytes become the payload; an id that could
-- not be shown is replaced. Where payloads lie apart, that of a letter of format 1 is put there, too.
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

-- Which part of the index is meant: from `since`, or from so long ago as `younger`, up to so long ago as `older`; all in ms, each
-- may be empty. With a code, letters of that code only.
function letters.range(code, since, younger, older)
  local prefix = code == '' and 't\0' or 'c\0' .. string.gsub(code, '%z', ' ') .. '\0'
  local function at(ms) return string.format('%016.0f', math.min(math.max(ms, 0), 1e15)) end
  local first = math.max(tonumber(since) or 0, younger ~= '' and now - tonumber(younger) or 0)
  local last = older ~= '' and prefix .. at(now - tonumber(older) + 1) or string.sub(prefix, 1, -2) .. '\1'
  return '[' .. prefix .. at(first), '(' .. last, #prefix + 18  -- where the id begins in what lies there
end
