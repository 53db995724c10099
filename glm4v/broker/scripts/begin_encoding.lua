-- A vision worker starts on a picture: tell those who wait. With nobody left the job is dropped.
-- KEYS jobs:vision flight open
-- ARGV group consumer entry stage journal_prefix
-- Answers the number of requests that wait, -1 when the lease is lost.
local jobs, flight, open = KEYS[1], KEYS[2], KEYS[3]
if not owns(jobs, ARGV[1], ARGV[2], ARGV[3]) then return -1 end
local ids = parked(flight, open)
if #ids == 0 then
  redis.call('DEL', flight)
  settle(jobs, ARGV[1], ARGV[3])
  return 0
end
redis.call('HSET', flight, '', 'encoding')
for _, id in ipairs(ids) do
  local _, next_index = tail(ARGV[5] .. id)
  redis.call('XADD', ARGV[5] .. id, '*', 'k', 's', 'n', next_index, 'd', ARGV[4])
end
return #ids
