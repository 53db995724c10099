-- Delete consumers that hold no lease and have been idle for long: each worker process leaves one behind.
-- A worker that was only suspended is created again with its next claim.
-- KEYS jobs
-- ARGV group idle_ms
-- Returns the number of consumers deleted.
local count = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local found = {}
  for i = 1, #consumer, 2 do found[consumer[i]] = consumer[i + 1] end
  -- Deleting a consumer deletes its pending entries too, and with them jobs.
  if found.pending == 0 and found.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], found.name)
    count = count + 1
  end
end
return count
