-- Forget the names of workers that are gone: those that hold nothing and have not asked for long.
-- One that is there after all, and suspended, is known again when it asks.
-- KEYS jobs
-- ARGV group idle_ms
-- Answers the number of names forgotten.
local count = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local found = {}
  for i = 1, #consumer, 2 do found[consumer[i]] = consumer[i + 1] end
  -- With a consumer go its pending entries, and with those jobs would be lost.
  if found.pending == 0 and found.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], found.name)
    count = count + 1
  end
end
return count
