-- Before a message is sent: write the job down and claim its idempotency key, both only for seconds until `confirm` makes
-- them last, so that a sender that dies in between blocks nothing.
-- KEYS: 1 job, 2 claim ('' = none). ARGV: 1 id, 2 fingerprint, 3 TTL (s), 4 '1' = take the key from a job that has ended, 5… field, value pairs
if KEYS[2] ~= '' then
  local holder, fingerprint = string.match(redis.call('GET', KEYS[2]) or '', '^([^|]*)|(.*)$')
  if holder and holder ~= ARGV[1] then
    local state = ARGV[4] == '1' and redis.call('HGET', 'job:' .. holder, 'state') or 'keep'
    if state and state ~= 'succeeded' and state ~= 'failed' and state ~= 'cancelled' then return {holder, fingerprint} end
  end
  redis.call('SET', KEYS[2], ARGV[1] .. '|' .. ARGV[2], 'EX', ARGV[3])
end
if redis.call('HGET', KEYS[1], 'message') == 'waiting for earlier steps' then redis.call('HDEL', KEYS[1], 'state', 'message', 'queue', 'priority') end
for i = 5, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return {ARGV[1], ARGV[2]}
