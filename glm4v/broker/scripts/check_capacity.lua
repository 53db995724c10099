-- Check whether `submit` would accept a request, before the megabytes of its image are sent.
-- KEYS open_requests journal
-- ARGV num_choices max_open digest image_bytes max_image_bytes client max_of_client
-- Returns ok (also when the request was accepted before) | full count | client full count | images pinned_bytes limit
local open_requests, journal = unpack(KEYS)
local num_choices, max_open, digest, image_bytes, max_image_bytes, client, max_of_client = unpack(ARGV)
if redis.call('EXISTS', journal) == 1 then return {'ok'} end
local count = redis.call('ZCARD', open_requests)
if count + tonumber(num_choices) > tonumber(max_open) then return {'full', count} end
local of_client = client_over_limit(open_requests, client, tonumber(num_choices), tonumber(max_of_client))
if of_client then return {'client full', of_client} end
local pinned_bytes, limit = image_over_limit(open_requests, digest, tonumber(image_bytes), tonumber(max_image_bytes))
if pinned_bytes then return {'images', pinned_bytes, limit} end
return {'ok'}
