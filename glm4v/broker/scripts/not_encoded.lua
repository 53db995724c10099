-- The picture cannot be encoded: fail those who wait behind it.
-- KEYS jobs:vision flight open readers
-- ARGV group consumer entry end journal_prefix retention_ms
-- Answers the number of requests failed, -1 when the lease is lost.
local jobs, flight, open, readers = unpack(KEYS)
if not owns(jobs, ARGV[1], ARGV[2], ARGV[3]) then return -1 end
local ids = parked(flight, open)
for _, id in ipairs(ids) do
  local _, next_index = tail(ARGV[5] .. id)
  finish(ARGV[5] .. id, open, readers, id, next_index, ARGV[4], ARGV[6])
end
redis.call('DEL', flight)
settle(jobs, ARGV[1], ARGV[3])
return #ids
