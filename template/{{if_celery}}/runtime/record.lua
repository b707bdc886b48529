-- The steps of a job's life, each atomic. record.py makes a script of each, with what stands above them, the settings' values
-- (LEASE, RECORD_TTL …), and `after`, by which transport.py may note where a step left the job. A step that knows tells it behind
-- its reply (state, queue, since when), which saves reading it.
-- KEYS: 1 the job's record. ARGV: what the step says. For one Redis node: steps make other key names themselves.
local METRICS, job = 'metrics', KEYS[1]
local function final(state) return state == 'succeeded' or state == 'failed' or state == 'cancelled' end
local function claim_of(name, key) return key and key ~= '' and 'key:' .. name .. ':' .. key or nil end
local function holder_of(claim) return string.match(redis.call('GET', claim) or '', '^([^|]*)|?(.*)$') end
local function count(...) redis.call('HINCRBY', METRICS, table.concat({...}, '|'), 1) end
local function observe(series, value, buckets, outcome)
  local bucket = 1
  while buckets[bucket] and value > buckets[bucket] do bucket = bucket + 1 end
  redis.call('HINCRBY', METRICS, series .. bucket .. outcome, 1)
  redis.call('HINCRBY', METRICS, series .. 'us', string.format('%.0f', math.max(value, 0) * 1e6))
end
local function give_back(slots)  -- tokens that a job has reserved (bucket.lua): whoever comes next may have them
  for bucket, reserved in pairs(slots and cjson.decode(slots) or {}) do
    local free = 'slots:' .. bucket
    for _, slot in ipairs(reserved.held) do redis.call('ZADD', free, slot, slot) end
    redis.call('EXPIRE', free, RECORD_TTL)
  end
end

-- Before a message is sent: write the job down and claim its idempotency key, both only for RESERVED seconds until `confirm`
-- makes them last, so that a sender that dies in between blocks nothing.
-- ARGV: 1 id, 2 name, 3 key ('' = none), 4 fingerprint, 5 '1' = take the key from a job that has ended, 6 record (JSON),
--       7 jobs to follow this one, by id (JSON): name, and whether they are later steps of its chain
function steps.reserve()
  local id, name = ARGV[1], ARGV[2]
  local claim = claim_of(name, ARGV[3])
  local record = cjson.decode(ARGV[6])
  if claim then
    local holder, fingerprint = holder_of(claim)
    if holder ~= '' and holder ~= id then
      local state, reserved = unpack(redis.call('HMGET', 'job:' .. holder, 'state', 'reserved'))
      if reserved then  -- perhaps never sent: send it again, under its id
        redis.call('EXPIRE', claim, RESERVED)
        redis.call('EXPIRE', 'job:' .. holder, RESERVED, 'GT')
        redis.call('HINCRBY', 'job:' .. holder, 'reserved', 1)
        return {holder, fingerprint, 'reserved'}
      end
      if ARGV[5] ~= '1' or (state and not final(state)) then return {holder, fingerprint, 'sent'} end
    end
    redis.call('SET', claim, id .. '|' .. ARGV[4], 'EX', RESERVED)
  end
  -- Asked first: after any HDEL a Redis without memory would refuse nothing that this step writes.
  if redis.call('HEXISTS', job, 'follows') == 1 then
    redis.call('HDEL', job, 'follows')
    if redis.call('HEXISTS', job, 'cancel') == 0 then  -- its turn has come
      redis.call('HDEL', job, 'name', 'state', 'message', 'queue', 'priority', 'error', 'finished_at')
      redis.call('HSET', job, 'reserved', 1)
    end
  end
  if redis.call('EXISTS', job) == 0 then redis.call('HSET', job, 'reserved', 1) end  -- how many senders it has
  for field, value in pairs(record) do redis.call('HSETNX', job, field, value) end
  if redis.call('TTL', job) < RESERVED then redis.call('EXPIRE', job, RESERVED) end
  if ARGV[7] ~= '{}' then redis.call('HSET', job, 'followers', ARGV[7]) end
  for follower, step in pairs(cjson.decode(ARGV[7])) do
    local key, name, in_chain = 'job:' .. follower, unpack(step)
    local state, follows = unpack(redis.call('HMGET', key, 'state', 'follows'))
    if not state or (follows and state == 'failed') then  -- 'failed': with this step, which is now replayed
      redis.call('HSET', key, 'name', name, 'state', 'scheduled', 'message', 'waiting for earlier steps', 'follows', 1,
        'queue', '', 'priority', 5, 'root', record.root)
      redis.call('HDEL', key, 'error', 'finished_at')
      redis.call('DEL', 'celery-task-meta-' .. follower)
      redis.call('EXPIRE', key, RECORD_TTL)
    end
    if in_chain then redis.call('HSET', key, 'after', id) end
  end
  return {id, ARGV[4], 'reserved'}
end

-- The message was sent: keep what `reserve` wrote, from when it is due.
-- ARGV: 1 name, 2 key ('' = none), 3 queue, 4 delay in seconds
function steps.confirm()
  count('enqueued', ARGV[1], ARGV[3], '')
  redis.call('HDEL', job, 'reserved')
  redis.call('EXPIRE', job, ARGV[4] + RECORD_TTL, 'GT')
  local claim = claim_of(ARGV[1], ARGV[2])
  if claim then redis.call('EXPIRE', claim, ARGV[4] + KEY_TTL, 'GT') end
end

-- The message was not sent, as far as its sender knows. If it was, and runs already, the job stands (0); else it is dropped when it
-- comes, and the key is free, unless another sender with the key is sending it.
-- ARGV: 1 id, 2 name, 3 key ('' = none), 4 now
function steps.withdraw()
  local state, reserved = unpack(redis.call('HMGET', job, 'state', 'reserved'))
  if state and not reserved then return state == 'cancelled' and 1 or 0 end
  if reserved and redis.call('HINCRBY', job, 'reserved', -1) > 0 then return 1 end
  redis.call('HDEL', job, 'reserved')
  redis.call('HSETNX', job, 'name', ARGV[2])  -- its reservation may have ended meanwhile
  redis.call('HSETNX', job, 'queue', '')
  redis.call('HSETNX', job, 'priority', 5)
  redis.call('HSET', job, 'state', 'cancelled', 'error', 'its submission failed', 'finished_at', ARGV[4])
  redis.call('EXPIRE', job, RECORD_TTL)
  local claim = claim_of(ARGV[2], ARGV[3])
  if claim and holder_of(claim) == ARGV[1] then redis.call('DEL', claim) end
  return 1
end

-- May this delivery run? Decides and writes it down in one step: finished, stale, cancelled, running elsewhere, key in use,
-- lock in use, poison, or run.
-- ARGV: 1 id, 2 now, 3 owner, 4 name, 5 queue, 6 seq, 7 key ('' = none), 8 fingerprint, 9 singleton ('wait'|'skip'|''),
--       10 due at, 11 record (JSON) in case there is none
function steps.start()
  local id, now, name, queue = ARGV[1], tonumber(ARGV[2]), ARGV[4], ARGV[5]
  local lease, claim = job .. ':lease', claim_of(name, ARGV[7])
  local state, was_seq, ended_seq, cancel, after_id, started_at, attempts, reserved = unpack(redis.call('HMGET', job,
    'state', 'seq', 'ended_seq', 'cancel', 'after', 'started_at', 'attempts', 'reserved'))

  -- All who wait for one lock or key look for it 10 times a second together, each after 2 s at the earliest.
  local function wait_for(other, held)
    local time, line = redis.call('TIME'), 'look:' .. held
    local clock = time[1] + time[2] / 1e6
    local look = math.max(clock + 2, (redis.call('GET', line) or 0) + 0.1)
    local wait = math.ceil((look - clock) * 1000)
    redis.call('SET', line, look, 'PX', wait + 1000)
    redis.call('HSET', job, 'state', 'scheduled', 'due_at', now + wait / 1000, 'message', 'waiting for ' .. other)
    return {'busy', wait}
  end

  if final(state) then return {'finished', state} end
  -- Each retry or snooze sends a message with the next seq. A seq whose run has ended, or that an older message carries, is a
  -- duplicate: it must not fork the job into two.
  local seq, running = tonumber(ARGV[6]), tonumber(was_seq or 0)
  if seq < running or seq <= tonumber(ended_seq or -1) then return {'stale', ''} end
  if not state then
    for field, value in pairs(cjson.decode(ARGV[11])) do redis.call('HSETNX', job, field, value) end
  end
  if not state or reserved then redis.call('EXPIRE', job, RECORD_TTL) end  -- its sender died before `confirm`
  if after_id then cancel = cancel or redis.call('HGET', 'job:' .. after_id, 'cancel') end  -- and yet the step before succeeded
  if cancel then return {'cancelled', ''} end

  local owner = state == 'running' and redis.call('GET', lease)  -- in other states nobody has one
  if owner == ARGV[3] then return {'run', ''} end  -- asked again: the first answer was lost
  if owner then return {'busy', seq > running and 200 or math.max(redis.call('PTTL', lease), 1)} end  -- 200: its sender still runs

  if claim then
    local holder = holder_of(claim)
    if holder ~= '' and holder ~= id then
      local other = redis.call('HGET', 'job:' .. holder, 'state')
      if other == 'succeeded' then return {'duplicate', holder} end
      if other and not final(other) then return wait_for(holder, claim) end
    end
    redis.call('SET', claim, id .. '|' .. ARGV[8], 'EX', KEY_TTL)
  end

  if ARGV[9] ~= '' then
    local holder = redis.call('GET', 'lock:' .. name)
    if holder and holder ~= id then
      if ARGV[9] == 'skip' then return {'skipped', holder} end
      return wait_for(holder, 'lock:' .. name)
    end
    redis.call('SET', 'lock:' .. name, id, 'PX', LEASE)
    redis.call('HSET', job, 'locked', 1)
  end

  if state == 'running' then  -- the last run ended without a word: its worker died
    count('finished', name, queue, 'lost')
    local lost = redis.call('HINCRBY', job, 'lost', 1)
    if lost >= MAX_DELIVERIES then
      redis.call('HSET', job, 'state', 'queued')  -- no run of its own to be counted
      return {'poison', lost}
    end
  end

  redis.call('SET', lease, ARGV[3], 'PX', LEASE)
  local attempt = tonumber(attempts or 0) + 1
  redis.call('HSET', job, 'state', 'running', 'run_at', ARGV[2], 'queue', queue, 'seq', ARGV[6], 'attempts', attempt,
    'started_at', started_at or ARGV[2], 'owner', ARGV[3])
  if state ~= 'queued' or reserved then redis.call('HDEL', job, 'due_at', 'message', 'reserved') end
  observe('wait|' .. name .. '|' .. queue .. '|', now - tonumber(ARGV[10]), WAIT_BUCKETS, '')
  return {'run', attempt}, 'running', queue, ARGV[2]
end

-- A run ended: state, result, idempotency key, lock, dead letter and counters change together, once. The first end counts.
-- ARGV: 1 id, 2 now, 3 owner ('' = not the run itself), 4 state, 5 outcome, 6 result ('' = none), 7 name, 8 queue,
--       9 seq ('' = the same message comes again), 10 key ('' = none), 11 dead letter ('' = none), 12… field, value pairs
function steps.finish()
  local id, now, state, name, queue = ARGV[1], tonumber(ARGV[2]), ARGV[4], ARGV[7], ARGV[8]
  local was, run_at, locked, slots = unpack(redis.call('HMGET', job, 'state', 'run_at', 'locked', 'slots'))
  if final(was) then return 0 end
  local holder = not final(state) and ARGV[3] ~= '' and redis.call('GET', job .. ':lease')
  if holder and holder ~= ARGV[3] then return 0 end  -- another worker took over meanwhile

  if final(state) then ARGV[#ARGV + 1], ARGV[#ARGV + 2] = 'finished_at', ARGV[2] end
  if final(state) then redis.call('HDEL', job, 'sent', was == 'running' and 'sent' or 'due_at') end
  if was ~= 'running' then redis.call('HSET', job, 'name', name, 'queue', queue) end
  if not was then redis.call('HSETNX', job, 'priority', 5) end  -- Redis has lost the record meanwhile
  redis.call('HSET', job, 'state', state, unpack(ARGV, 12))
  redis.call('EXPIRE', job, RECORD_TTL)
  redis.call('DEL', job .. ':lease')
  if locked and redis.call('GET', 'lock:' .. name) == id then redis.call('DEL', 'lock:' .. name) end
  if was == 'running' then
    local lasted = now - tonumber(run_at or now)
    observe('duration|' .. name .. '|' .. queue .. '|', lasted, DURATION_BUCKETS, '|' .. ARGV[5])
  end
  if ARGV[6] ~= '' then
    redis.call('SET', 'celery-task-meta-' .. id, ARGV[6], 'EX', RESULT_TTL)
    redis.call('PUBLISH', 'celery-task-meta-' .. id, ARGV[6])
  end
  if not final(state) then
    redis.call('HDEL', job, 'lost')  -- it can end without killing its worker
    if ARGV[9] ~= '' then redis.call('HSET', job, 'ended_seq', ARGV[9]) end
    if state ~= 'retrying' and was == 'running' then redis.call('HINCRBY', job, 'attempts', -1) end  -- waiting is no attempt
    return 1
  end
  give_back(slots)
  local claim = claim_of(name, ARGV[10])
  if claim and holder_of(claim) == id then
    if state == 'cancelled' then redis.call('DEL', claim) else redis.call('EXPIRE', claim, KEY_TTL) end
  end
  if ARGV[11] ~= '' then
    redis.call('SET', 'dead:' .. id, ARGV[11])
    redis.call('HINCRBY', 'dead:queues', queue, redis.call('ZADD', 'dead', now, id))
  end
  return 1, state, queue
end

-- The process that ran it is gone: whoever gets the message next may take over at once, unless somebody has already.
-- ARGV: 1 how its owner's name begins
function steps.release()
  local lease = job .. ':lease'
  if string.sub(redis.call('GET', lease) or '', 1, #ARGV[1]) == ARGV[1] then redis.call('DEL', lease) end
end

-- Cancel what has not started; ask what runs to stop. Returns the state that the job was in.
-- ARGV: 1 id, 2 now, 3 result
function steps.cancel()
  local id = ARGV[1]
  local state, name, queue, key, slots, locked = unpack(redis.call('HMGET', job,
    'state', 'name', 'queue', 'key', 'slots', 'locked'))
  if not state or final(state) then return state end
  redis.call('HSET', job, 'cancel', 1)
  redis.call('EXPIRE', job, RECORD_TTL, 'GT')
  if redis.call('EXISTS', job .. ':lease') == 1 then return state end
  if state == 'running' then count('finished', name, queue, 'lost') end  -- its worker is dead
  redis.call('HSET', job, 'state', 'cancelled', 'finished_at', ARGV[2])
  redis.call('HDEL', job, 'due_at', 'sent')
  if locked and redis.call('GET', 'lock:' .. name) == id then redis.call('DEL', 'lock:' .. name) end
  give_back(slots)
  redis.call('SET', 'celery-task-meta-' .. id, ARGV[3], 'EX', RESULT_TTL)
  redis.call('PUBLISH', 'celery-task-meta-' .. id, ARGV[3])
  local claim = claim_of(name, key)
  if claim and holder_of(claim) == id then redis.call('DEL', claim) end
  return state
end

-- Jobs that waited for one that ended without success will not run. They keep `follows`: a replay of that one lets them wait again.
-- ARGV: 1 now, 2 JSON: id, name, error and result of each
function steps.give_up()
  for _, step in ipairs(cjson.decode(ARGV[2])) do
    local id, name, why, result = unpack(step)
    local key = 'job:' .. id
    local state, follows = unpack(redis.call('HMGET', key, 'state', 'follows'))
    if not state or (follows and not final(state)) then
      redis.call('HSET', key, 'name', name, 'state', 'failed', 'error', why, 'finished_at', ARGV[1], 'follows', 1)
      redis.call('HSETNX', key, 'queue', '')
      redis.call('HSETNX', key, 'priority', 5)
      redis.call('HDEL', key, 'message')
      redis.call('EXPIRE', key, RECORD_TTL)
      redis.call('SET', 'celery-task-meta-' .. id, result, 'EX', RESULT_TTL)
      redis.call('PUBLISH', 'celery-task-meta-' .. id, result)
    end
  end
end

-- The first replay of a dead letter names the job that replaces it; later ones learn its name.
-- ARGV: 1 id of the new job
function steps.replay()
  redis.call('HSETNX', job, 'replayed_as', ARGV[1])
  redis.call('EXPIRE', job, RECORD_TTL)
  return redis.call('HGET', job, 'replayed_as')
end
