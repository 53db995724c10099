-- A vision worker starts to encode an image: write the stage into the journals of the waiting requests.
-- Without a waiting request the job is deleted.
-- KEYS jobs:vision encode_waiters open_requests
-- ARGV group consumer entry delivery_count stage
-- Returns the number of waiting requests, -1 when the lease is lost.
local jobs, waiters, open_requests = unpack(KEYS)
local group, consumer, entry, delivery_count, stage = unpack(ARGV)
if not owns(jobs, group, consumer, entry, delivery_count) then return -1 end
local ids, next_indices = live_waiters(waiters, open_requests)
if #ids == 0 then
  redis.call('DEL', waiters)
  ack_and_delete(jobs, group, entry)
  return 0
end
redis.call('HSET', waiters, '', 'encoding')
for i, id in ipairs(ids) do
  redis.call('XADD', sibling(open_requests, 'journal:' .. id), '*', 'k', 's', 'n', next_indices[i], 'd', stage)
end
return #ids
