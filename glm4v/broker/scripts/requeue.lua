-- Put claimed requests back, in front of others of their clients: the worker drains, or has no capacity for them.
-- The new entry is written before the lease is given up: when Redis is out of memory, the lease is kept.
-- KEYS jobs:lm open_requests journal...
-- ARGV group consumer stage, then for each journal: id entry delivery_count prior_attempts
-- Returns the number of requests whose lease was held.
local jobs, open_requests, group, consumer, stage = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local count = 0
for i = 3, #KEYS do
  local at = 4 * i - 8
  local id, entry, delivery_count, prior_attempts = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if owns(jobs, group, consumer, entry, delivery_count) then
    local kind, next_index = last_entry(KEYS[i])
    if kind ~= nil and kind ~= 'e' then
      if tonumber(prior_attempts) > 0 then -- only an entry of the stream counts them
        add_job(jobs, id, prior_attempts)
      else
        enqueue(jobs, open_requests, id, 0)
      end
      redis.call('XADD', KEYS[i], '*', 'k', 's', 'n', next_index, 'd', stage)
      count = count + 1
    end
    ack_and_delete(jobs, group, entry)
  end
end
return count
