-- May this delivery run? Decides and writes it down in one step: finished, stale, cancelled, running elsewhere, key in use,
-- lock in use, poison, or run.
-- KEYS: 1 job, 2 lease, 3 claim of the idempotency key ('' = none), 4 lock of a singleton ('' = none), 5 metrics
-- ARGV: 1 id, 2 now, 3 owner, 4 lease (ms), 5 record TTL (s), 6 name, 7 queue, 8 seq, 9 max deliveries, 10 singleton ('wait'|'skip'|''),
--       11 key TTL (s), 12 fingerprint, 13 due at, 14… field, value pairs of a record that is not there (yet)
local job, lease, claim, lock, metrics = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, now, name, queue = ARGV[1], tonumber(ARGV[2]), ARGV[6], ARGV[7]

local state = redis.call('HGET', job, 'state')
if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return {'finished', state} end
-- Each retry or snooze sends a message with the next seq. A seq whose run has ended, or that an older message carries, is a
-- duplicate: it must not fork the job into two.
local seq, running = tonumber(ARGV[8]), tonumber(redis.call('HGET', job, 'seq') or 0)
if seq < running or seq <= tonumber(redis.call('HGET', job, 'ended_seq') or -1) then return {'stale'} end
for i = 14, #ARGV, 2 do redis.call('HSETNX', job, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', job, ARGV[5])

if redis.call('HEXISTS', job, 'cancel') == 1 then return {'cancelled'} end
local left = redis.call('PTTL', lease)
if left > 0 then return {'busy', seq > running and 200 or left} end  -- the next message, before the run that sent it has ended

if claim ~= '' then
  local held = redis.call('GET', claim)
  local holder = held and string.match(held, '^[^|]*')
  if holder and holder ~= id then
    local other = redis.call('HGET', 'job:' .. holder, 'state')
    if other == 'succeeded' then return {'duplicate', holder} end
    if other and other ~= 'failed' and other ~= 'cancelled' then
      redis.call('HSET', job, 'state', 'scheduled', 'due_at', now + 2, 'message', 'waiting for ' .. holder)
      return {'busy', 2000}
    end
  end
  redis.call('SET', claim, id .. '|' .. ARGV[12], 'EX', ARGV[11])
end

if lock ~= '' then
  local holder = redis.call('GET', lock)
  if holder and holder ~= id then
    if ARGV[10] == 'skip' then return {'skipped', holder} end
    redis.call('HSET', job, 'state', 'scheduled', 'due_at', now + 2, 'message', 'waiting for ' .. holder)
    return {'busy', 2000}
  end
  redis.call('SET', lock, id, 'PX', ARGV[4])
end

if state == 'running' then  -- the last run ended without a word: its worker died
  count(metrics, 'finished', name, queue, 'lost')
  if redis.call('HINCRBY', job, 'lost', 1) >= tonumber(ARGV[9]) then return {'poison', redis.call('HGET', job, 'lost')} end
end

redis.call('SET', lease, ARGV[3], 'PX', ARGV[4])
redis.call('HSETNX', job, 'started_at', now)
redis.call('HSET', job, 'state', 'running', 'run_at', now, 'queue', queue, 'seq', seq)
redis.call('HDEL', job, 'due_at', 'message')
count(metrics, 'started', name, queue, '')
observe(metrics, 'wait', name, queue, now - tonumber(ARGV[13]), WAIT_BUCKETS)
return {'run', redis.call('HINCRBY', job, 'attempts', 1)}
