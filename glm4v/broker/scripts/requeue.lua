-- Put requests back at the end of the queue, for any worker: a drain, or work there is no room for.
-- Written before the lease is given up: when Redis is out of memory it stays ours.
-- KEYS jobs:lm journal...
-- ARGV group consumer stage, then for each journal: id entry claims lives
local jobs, group, consumer, stage = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local count = 0
for i = 2, #KEYS do
  local at = 4 * i - 4
  local id, entry, claims, lives = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if owns(jobs, group, consumer, entry, claims) then
    local kind, next_index = tail(KEYS[i])
    if kind ~= nil and kind ~= 'e' then
      redis.call('XADD', jobs, '*', 'r', id, 'l', lives, 'v', FORMAT)
      redis.call('XADD', KEYS[i], '*', 'k', 's', 'n', next_index, 'd', stage)
      count = count + 1
    end
    settle(jobs, group, entry)
  end
end
return count
