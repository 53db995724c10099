-- The image cannot be encoded: fail those who wait behind it.
-- KEYS jobs:vision flight open readers
-- ARGV group consumer entry claims end retention_ms
-- Answers the number of requests failed, -1 when the lease is lost.
local jobs, flight, open, readers = unpack(KEYS)
if not owns(jobs, ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return -1 end
local ids, next_indices = parked(flight, open)
for i, id in ipairs(ids) do
  finish(sibling(open, 'journal:' .. id), open, readers, id, next_indices[i], ARGV[5], ARGV[6])
end
redis.call('DEL', flight)
settle(jobs, ARGV[1], ARGV[3])
return #ids
