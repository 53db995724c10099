-- Accept a request once, all its choices or none, and send them where they go first.
-- KEYS open readers jobs:lm jobs:vision flight image journal...
-- ARGV content_digest former_digest queued timeout_ms unread_ms max_open max_image_bytes image_digest route
--      vision_job encoding, then for each journal: id accepted
--      former_digest: the same in the form of an older release, empty for none
--      timeout_ms: from now to its deadline
--      unread_ms: how long it may stand without a reader
--      max_image_bytes: of all images of open requests
--      image_digest: empty when it has no image
--      route: lm (no image, or its embedding is there) | vision
-- Answers attached | taken | full count | images held limit | no image | accepted
local open, readers, jobs_lm, jobs_vision, flight, image = unpack(KEYS)
local content, former, queued, timeout_ms, unread_ms, max_open, max_image_bytes = unpack(ARGV)
local digest, route, vision_job, encoding = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local JOURNAL = 7 -- the first one's key

local entries = redis.pcall('XRANGE', KEYS[JOURNAL], '-', '+', 'COUNT', 1)
if entries.err then return {'taken'} end -- the key is no journal
if entries[1] then
  local first = entries[1][2]
  for i = 1, #first, 2 do
    local asked = first[i] == 'c' and first[i + 1]
    if asked == content or asked == former and former ~= '' then return {'attached'} end
  end
  return {'taken'}
end
-- What a Redis that lost the first journal still has of the others.
for i = JOURNAL + 1, #KEYS do
  local kind = tail(KEYS[i])
  if kind ~= nil and kind ~= 'e' then return {'taken'} end
end

local count = redis.call('ZCARD', open)
if count + #KEYS - JOURNAL + 1 > tonumber(max_open) then return {'full', count} end
if digest ~= '' then
  if redis.call('EXISTS', image) == 0 then return {'no image'} end
  local held, limit = image_room(open, digest, redis.call('STRLEN', image), tonumber(max_image_bytes))
  if held then return {'images', held, limit} end
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i = JOURNAL, #KEYS do
  local at = 12 + 2 * (i - JOURNAL)
  local journal, id, accepted = KEYS[i], ARGV[at], ARGV[at + 1]
  -- Only then: when memory is full a script is refused at its first write, unless that frees some.
  if redis.call('EXISTS', journal) == 1 then redis.call('DEL', journal) end
  -- Both digests, as gateways of two releases may be asked again.
  redis.call('XADD', journal, '*', 'k', 'a', 'n', 0, 'c', content, 'c', former, 'd', accepted, 'v', FORMAT)
  redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', queued)
  redis.call('ZADD', open, now_ms + timeout_ms, id)
  redis.call('ZADD', readers, now_ms + unread_ms, id)
  if digest ~= '' then pin(open, id, digest) end
  if route == 'lm' then
    redis.call('XADD', jobs_lm, '*', 'r', id, 'l', 0, 'v', FORMAT)
  else
    park(flight, id, jobs_vision, vision_job)
    if redis.call('HGET', flight, '') == 'encoding' then
      redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', encoding)
    end
  end
end
return {'accepted'}
