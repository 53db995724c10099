-- List queues, so that they are cleaned up once nobody uses them.
-- KEYS queues
-- ARGV queue...
for _, queue in ipairs(ARGV) do register_queue(KEYS[1], queue) end
return 1
