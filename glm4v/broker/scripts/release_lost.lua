-- Release what requests hold that are not open, for example because their keys were deleted by hand.
-- KEYS open_requests
-- Returns the number of requests.
local count = 0
for _, name in ipairs({'pins', 'client_of'}) do
  for _, id in ipairs(redis.call('HKEYS', sibling(KEYS[1], name))) do
    if not redis.call('ZSCORE', KEYS[1], id) then
      release(KEYS[1], id)
      count = count + 1
    end
  end
end
return count
