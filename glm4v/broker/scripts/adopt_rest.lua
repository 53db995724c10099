-- Take over the dead letters of the previous release, and delete what is left of it once no request is.
-- KEYS former_open former_dead dead_letters former...
-- Returns 1, or 0 when dead letters had to stay.
local former_open, former_dead, dead_letters = KEYS[1], KEYS[2], KEYS[3]
if redis.call('EXISTS', former_open) == 0 then
  for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
end
if redis.call('EXISTS', former_dead) == 0 then return 1 end
return redis.call('RENAMENX', former_dead, dead_letters)
