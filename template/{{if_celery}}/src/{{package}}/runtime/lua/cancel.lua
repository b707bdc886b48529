-- Cancel what has not started; ask what runs to stop. Returns the state that the job was in.
-- KEYS: 1 job, 2 lease, 3 result. ARGV: 1 now, 2 result, 3 TTL (s)
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'succeeded' or state == 'failed' or state == 'cancelled' then return state end
redis.call('HSET', KEYS[1], 'cancel', 1)
if redis.call('EXISTS', KEYS[2]) == 1 then return state end
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished_at', ARGV[1])
redis.call('HDEL', KEYS[1], 'due_at')
redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[2])
local name, key = unpack(redis.call('HMGET', KEYS[1], 'name', 'key'))
local claim = key and 'key:' .. name .. ':' .. key
if claim and KEYS[1] == 'job:' .. string.match(redis.call('GET', claim) or '', '^[^|]*') then redis.call('DEL', claim) end
return state
