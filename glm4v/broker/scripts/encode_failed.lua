-- The image cannot be encoded: end the waiting requests with an error.
-- KEYS jobs:vision encode_waiters open_requests reader_deadlines
-- ARGV group consumer entry delivery_count end result_ttl_ms
-- Returns the number of requests ended, -1 when the lease is lost.
local jobs, waiters, open_requests, reader_deadlines = unpack(KEYS)
local group, consumer, entry, delivery_count, ending, result_ttl_ms = unpack(ARGV)
if not owns(jobs, group, consumer, entry, delivery_count) then return -1 end
local ids, next_indices = live_waiters(waiters, open_requests)
for i, id in ipairs(ids) do
  local journal = sibling(open_requests, 'journal:' .. id)
  write_end(journal, open_requests, reader_deadlines, id, next_indices[i], ending, result_ttl_ms)
end
redis.call('DEL', waiters)
ack_and_delete(jobs, group, entry)
return #ids
