-- Unpin the images of requests that are not open, for example because their keys were deleted by hand.
-- KEYS open_requests
-- Returns the number of requests.
local count = 0
for _, id in ipairs(redis.call('HKEYS', sibling(KEYS[1], 'pins'))) do
  if not redis.call('ZSCORE', KEYS[1], id) then
    unpin(KEYS[1], id)
    count = count + 1
  end
end
return count
