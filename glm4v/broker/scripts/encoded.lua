-- The embedding is stored: release those who wait behind it.
-- KEYS jobs:vision flight open jobs:lm
-- ARGV group consumer entry stage journal_prefix
-- Answers the number of requests released, -1 when the lease is lost.
local jobs, flight, open, jobs_lm = unpack(KEYS)
if not owns(jobs, ARGV[1], ARGV[2], ARGV[3]) then return -1 end
local ids = parked(flight, open)
for _, id in ipairs(ids) do
  local _, next_index = tail(ARGV[5] .. id)
  redis.call('XADD', ARGV[5] .. id, '*', 'k', 's', 'n', next_index, 'd', ARGV[4])
  redis.call('XADD', jobs_lm, '*', 'r', id, 'l', 0)
end
redis.call('DEL', flight)
settle(jobs, ARGV[1], ARGV[3])
return #ids
