-- The embedding is stored: move the waiting requests into the language queue.
-- KEYS jobs:vision encode_waiters open_requests jobs:lm
-- ARGV group consumer entry delivery_count stage
-- Returns the number of requests moved, -1 when the lease is lost.
local jobs, waiters, open_requests, jobs_lm = unpack(KEYS)
local group, consumer, entry, delivery_count, stage = unpack(ARGV)
if not owns(jobs, group, consumer, entry, delivery_count) then return -1 end
local ids, next_indices = live_waiters(waiters, open_requests)
for i, id in ipairs(ids) do
  redis.call('XADD', sibling(open_requests, 'journal:' .. id), '*', 'k', 's', 'n', next_indices[i], 'd', stage)
  enqueue(jobs_lm, open_requests, id, now_us())
end
redis.call('DEL', waiters)
ack_and_delete(jobs, group, entry)
return #ids
