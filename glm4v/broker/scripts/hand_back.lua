-- Put requests back at the end of the queue, for any worker: a drain, or work there is no room for.
-- KEYS jobs:lm
-- ARGV group consumer, then for each request: id entry lives
local jobs, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local count = 0
for at = 3, #ARGV, 3 do
  local id, entry, lives = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if owns(jobs, group, consumer, entry) then
    settle(jobs, group, entry)
    redis.call('XADD', jobs, '*', 'r', id, 'l', lives)
    count = count + 1
  end
end
return count
