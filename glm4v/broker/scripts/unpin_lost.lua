-- Unpin the images of requests that are not open: their entries were deleted by somebody else.
-- KEYS open
-- Answers the number of requests.
local count = 0
for _, id in ipairs(redis.call('HKEYS', sibling(KEYS[1], 'pins'))) do
  if not redis.call('ZSCORE', KEYS[1], id) then
    unpin(KEYS[1], id)
    count = count + 1
  end
end
return count
