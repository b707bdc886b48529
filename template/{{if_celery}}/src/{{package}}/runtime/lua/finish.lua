-- A run ended: state, result, idempotency key, lock, dead letter and counters change together, once. The first end counts.
-- KEYS: 1 job, 2 lease, 3 result, 4 claim ('' = none), 5 lock ('' = none), 6 metrics, 7 dead letters, 8 this dead letter, 9 dead per queue
-- ARGV: 1 id, 2 now, 3 owner ('' = not the run itself), 4 state, 5 outcome, 6 result ('' = none), 7 record TTL (s), 8 key TTL (s), 9 name,
--       10 queue, 11 seq ('' = the same message comes again), 12 dead letter ('' = none), 13 result TTL (s), 14… field, value pairs
local job, lease = KEYS[1], KEYS[2]
local id, now, state, name, queue = ARGV[1], tonumber(ARGV[2]), ARGV[4], ARGV[9], ARGV[10]

local was = redis.call('HGET', job, 'state')
if was == 'succeeded' or was == 'failed' or was == 'cancelled' then return 0 end
local final = state == 'succeeded' or state == 'failed' or state == 'cancelled'
local holder = redis.call('GET', lease)
if not final and ARGV[3] ~= '' and holder and holder ~= ARGV[3] then return 0 end  -- another worker took over meanwhile

redis.call('HSET', job, 'state', state, 'name', name, 'queue', queue)
for i = 14, #ARGV, 2 do redis.call('HSET', job, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', job, ARGV[7])
redis.call('DEL', lease)
if KEYS[5] ~= '' and redis.call('GET', KEYS[5]) == id then redis.call('DEL', KEYS[5]) end
if was == 'running' then
  count(KEYS[6], 'finished', name, queue, ARGV[5])
  observe(KEYS[6], 'duration', name, queue, now - tonumber(redis.call('HGET', job, 'run_at') or now), DURATION_BUCKETS)
end
if ARGV[6] ~= '' then
  redis.call('SET', KEYS[3], ARGV[6], 'EX', ARGV[13])
  redis.call('PUBLISH', KEYS[3], ARGV[6])
end
if not final then
  if ARGV[11] ~= '' then redis.call('HSET', job, 'ended_seq', ARGV[11]) end
  if ARGV[5] ~= 'retried' and was == 'running' then redis.call('HINCRBY', job, 'attempts', -1) end  -- waiting is no attempt
  return 1
end
redis.call('HSET', job, 'finished_at', now)
redis.call('HDEL', job, 'due_at')
if KEYS[4] ~= '' and string.match(redis.call('GET', KEYS[4]) or '', '^[^|]*') == id then
  if state == 'cancelled' then redis.call('DEL', KEYS[4]) else redis.call('EXPIRE', KEYS[4], ARGV[8]) end
end
if ARGV[12] ~= '' then
  redis.call('SET', KEYS[8], ARGV[12])
  redis.call('HINCRBY', KEYS[9], queue, redis.call('ZADD', KEYS[7], now, id))
end
return 1
