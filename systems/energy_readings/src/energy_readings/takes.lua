#!lua
-- Says whether an entry would be taken now, and adds none. A script without flags is refused wherever a write is: by a
-- replica, by a server that is full, cannot write to its disk, or lacks replicas.
--
-- KEYS  1 stream
if not redis.acl_check_cmd('XADD', KEYS[1], '*', 'readings', '') then
  return redis.error_reply('NOPERM this user may not XADD to ' .. KEYS[1])
end
return redis.call('XLEN', KEYS[1])
