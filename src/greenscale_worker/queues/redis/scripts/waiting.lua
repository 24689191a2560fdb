-- Shared by the scripts that put jobs back to the queue: at once, or after a delay.

-- Where a job waits: at the head of the queue, or held behind all others if its call failed and no job has succeeded since.
local function waits_in(m)
  if m.crashes >= SUSPECT_CRASHES then return SUSPECT end
  return V2 and m.runs > 0 and control.blamed and HELD or READY
end

-- Puts a job back to the queue. Order is by place; places are in order of first delivery.
local function requeue(id, m, where)
  store.own(id)
  write_meta(id, m)
  call('ZREM', LEASE, id)
  call('ZREM', DELAYED, id)
  where = where or waits_in(m)
  if where == HELD and not control.held then
    call('HSET', CONTROL, 'held', '1')
    control.held = '1'
  end
  length[where] = nil
  call('ZADD', where, place_of(id), id)
end

-- Puts a job back to the queue after a delay.
local function postpone(id, m, delay)
  store.own(id)
  write_meta(id, m)
  call('ZREM', LEASE, id)
  length[DELAYED] = nil
  call('ZADD', DELAYED, digits(queue_now + delay), id)
end
