-- Checks that scripts may use the commands of a queue, so that one that is missing, renamed or forbidden is noticed at the start.
-- Each is tried on a scratch string, where it can change nothing. Runs without prelude.lua.
--
-- KEYS  1 an unused key of the queue; 2 … private keys of the other kinds of queue
-- ARGV  1 the commands, as a JSON array of their words; the word "" stands for KEYS[1]
-- Output {{command, error, …}, {each key of the other kinds that exists}}
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

-- HDEL takes no memory: it comes first, as in `run_when_full` of prelude.lua, or a full Redis would refuse the rest.
if try({'HDEL', scratch, ''}) and try({'SET', scratch, '', 'PX', '1'}) then
  for _, words in ipairs(cjson.decode(ARGV[1])) do try(words) end
  for i = 2, #KEYS do
    if redis.pcall('EXISTS', KEYS[i]) == 1 then foreign[#foreign + 1] = KEYS[i] end
  end
end
return {errors, foreign}
