-- Deletes the tombstone of a cancellation that has not taken effect; the record of a waiting job says `waiting` again.
--
-- KEYS  as in prelude.lua; then the record HASH and cancel:<job id> STRING
-- ARGV  3 seconds a live record lasts
-- Output 1; 0: there is no tombstone
local record, tombstone = KEYS[ITEMS], KEYS[ITEMS + 1]
if call('DEL', tombstone) == 0 then return 0 end
local state = call('TYPE', record).ok == 'hash' and call('HGET', record, 'state')
if state == 'cancelling' then write_record(record, ARGV[3], false, 'state', 'waiting') end
return 1
