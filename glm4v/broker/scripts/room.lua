-- Whether a request has room, before the megabytes of its image are stored; `submit` asks again.
-- KEYS open journal
-- ARGV choices max_open digest bytes max_image_bytes
-- Answers ok (also when it was accepted before) | full count | images held limit
if redis.call('EXISTS', KEYS[2]) == 1 then return {'ok'} end
local count = redis.call('ZCARD', KEYS[1])
if count + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return {'full', count} end
local held, limit = image_room(KEYS[1], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
if held then return {'images', held, limit} end
return {'ok'}
