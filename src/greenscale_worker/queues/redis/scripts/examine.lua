-- Looks whether scripts may use the commands of a queue, so that one that is missing, renamed or forbidden is found out at
-- the start. Each is tried on a string of no meaning, where it can change nothing. Stands alone, without prelude.lua.
--
-- KEYS  1 a key of the queue's that nobody uses; 2 … private keys of the other kinds of queue
-- ARGV  1 the commands, as a JSON array of their words; the word "" stands for KEYS[1]
-- Output {{command, error, …}, {each key of the other kinds that there is}}
local scratch, errors, foreign = KEYS[1], {}, {}

local function try(words)
  for i = 2, #words do
    if words[i] == '' then words[i] = scratch end
  end
  local answer = redis.pcall(unpack(words))
  if type(answer) ~= 'table' or not answer.err or string.find(answer.err, 'WRONGTYPE', 1, true) then return true end
  errors[#errors + 1] = words[1]
  errors[#errors + 1] = answer.err
  return false
end

-- First what takes no memory, without which a full Redis refuses all that follows.
if try({'HDEL', scratch, ''}) and try({'SET', scratch, '', 'PX', '1'}) then
  for _, words in ipairs(cjson.decode(ARGV[1])) do try(words) end
  for i = 2, #KEYS do
    if redis.pcall('EXISTS', KEYS[i]) == 1 then foreign[#foreign + 1] = KEYS[i] end
  end
end
return {errors, foreign}
