-- The embedding is stored: release those who wait behind it.
-- KEYS jobs:vision flight open jobs:lm
-- ARGV group consumer entry claims stage
-- Answers the number of requests released, -1 when the lease is lost.
local jobs, flight, open, jobs_lm = unpack(KEYS)
if not owns(jobs, ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return -1 end
local ids, next_indices = parked(flight, open)
for i, id in ipairs(ids) do
  redis.call('XADD', sibling(open, 'journal:' .. id), '*', 'k', 's', 'n', next_indices[i], 'd', ARGV[5])
  redis.call('XADD', jobs_lm, '*', 'r', id, 'l', 0, 'v', FORMAT)
end
redis.call('DEL', flight)
settle(jobs, ARGV[1], ARGV[3])
return #ids
