-- Renew leases on requests. Writes `stage` into the journals when one is given.
-- KEYS jobs:lm journal...
-- ARGV group consumer stage, then for each journal: entry delivery_count
-- Returns for each journal: ok | closed | lost
local jobs, group, consumer, stage = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local answers = {}
for i = 2, #KEYS do
  local entry, delivery_count = ARGV[2 * i], ARGV[2 * i + 1]
  local kind, next_index, payload = last_entry(KEYS[i])
  local answer = 'ok'
  if not owns(jobs, group, consumer, entry, delivery_count) then
    answer = 'lost'
  elseif kind == nil or kind == 'e' then
    ack_and_delete(jobs, group, entry)
    answer = 'closed'
  else
    renew(jobs, group, consumer, entry)
    if stage ~= '' and stage ~= payload then -- equal: a retry whose first reply was lost
      redis.call('XADD', KEYS[i], '*', 'k', 's', 'n', next_index, 'd', stage)
    end
  end
  answers[#answers + 1] = answer
end
return answers
