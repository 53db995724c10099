-- Renew leases, tell which requests are over, and write a stage when one is given.
-- KEYS jobs:lm journal...
-- ARGV group consumer stage, then for each journal: entry claims
-- Answers for each journal: ok | closed | lost
local jobs, group, consumer, stage = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local answers = {}
for i = 2, #KEYS do
  local entry, claims = ARGV[2 * i], ARGV[2 * i + 1]
  local kind, next_index, payload = tail(KEYS[i])
  local answer = 'ok'
  if not owns(jobs, group, consumer, entry, claims) then
    answer = 'lost'
  elseif kind == nil or kind == 'e' then
    settle(jobs, group, entry)
    answer = 'closed'
  else
    renew(jobs, group, consumer, entry)
    if stage ~= '' and stage ~= payload then -- else asked again: the answer had not arrived
      redis.call('XADD', KEYS[i], '*', 'k', 's', 'n', next_index, 'd', stage)
    end
  end
  answers[#answers + 1] = answer
end
return answers
