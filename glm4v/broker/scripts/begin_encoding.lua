-- A vision worker starts on an image: tell those who wait. With nobody left the job is dropped.
-- KEYS jobs:vision flight open
-- ARGV group consumer entry claims stage
-- Answers the number of requests that wait, -1 when the lease is lost.
local jobs, flight, open = KEYS[1], KEYS[2], KEYS[3]
if not owns(jobs, ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return -1 end
local ids, next_indices = parked(flight, open)
if #ids == 0 then
  redis.call('DEL', flight)
  settle(jobs, ARGV[1], ARGV[3])
  return 0
end
redis.call('HSET', flight, '', 'encoding')
for i, id in ipairs(ids) do
  redis.call('XADD', sibling(open, 'journal:' .. id), '*', 'k', 's', 'n', next_indices[i], 'd', ARGV[5])
end
return #ids
