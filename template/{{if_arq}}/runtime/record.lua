-- The steps of a job's life, each atomic. record.py puts the settings' values (LEASE, RECORD_TTL …) before this text.
-- ARGV: 1 step, then what the step says. Times are the server's, so that machines need not agree on theirs. For one Redis node:
-- steps make key names themselves.
local METRICS = 'metrics'
local CANCELLED = '{"r":"cancelled","s":false,"t":0,"f":"","a":[],"k":{},"et":0,"st":0,"ft":0}'  -- for arq's `Job.result()`
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local now_ms = math.floor(now * 1000)

local function final(state) return state == 'succeeded' or state == 'failed' or state == 'cancelled' end
local function lease_of(id) return 'arq:in-progress:' .. id end
local function message_of(id) return 'arq:job:' .. id end
local function running_in(queue) return 'arq:running:' .. queue end
local function waiting_in(queue, priority)
  return 'arq:queue:' .. queue .. (tonumber(priority) == 5 and '' or ':' .. priority)
end
local function claim_of(name, key) return key and key ~= '' and 'key:' .. name .. ':' .. key or nil end
local function holder_of(claim) return string.match(redis.call('GET', claim) or '', '^([^|]*)|?(.*)$') end
local function count(what, job, queue, outcome)
  redis.call('HINCRBY', METRICS, table.concat({what, job, queue, outcome}, '|'), 1)
end
local function observe(what, job, queue, value, buckets)
  local bucket = #buckets + 1
  for i = 1, #buckets do
    if value <= buckets[i] then bucket = i break end
  end
  redis.call('HINCRBY', METRICS, table.concat({what, job, queue, bucket}, '|'), 1)
  redis.call('HINCRBYFLOAT', METRICS, table.concat({what, job, queue, 'sum'}, '|'), math.max(value, 0))
end

local function give_back(slots)  -- tokens that a job has reserved (bucket.lua): whoever comes next may have them
  for bucket, reserved in pairs(slots and cjson.decode(slots) or {}) do
    local free = 'slots:' .. bucket
    for _, slot in ipairs(reserved.held) do redis.call('ZADD', free, slot, slot) end
    redis.call('EXPIRE', free, RECORD_TTL)
  end
end

local function enqueue(id, queue, priority, due_ms)
  redis.call('ZADD', waiting_in(queue, priority), due_ms, id)
  if due_ms <= now_ms then redis.call('PUBLISH', 'arq:wake:' .. queue, '') end
end

-- A job that runs stays in its queue, due again when its lease ends: there is nothing to clean up after a crash, and arq's
-- `Job.result()` waits for it. `running_in` tells it from one that is delayed.
local function hold(id, owner, queue, priority)
  redis.call('SET', lease_of(id), owner, 'PX', LEASE)
  redis.call('ZADD', waiting_in(queue, priority), now_ms + LEASE, id)
  redis.call('ZADD', running_in(queue), now_ms + LEASE, id)
end

local function create(spec)
  redis.call('HSET', 'job:' .. spec.id, 'submitted_at', now, unpack(spec.fields))
  redis.call('SET', message_of(spec.id), spec.message)
end

local function follow(spec)
  create(spec)
  redis.call('HSET', 'job:' .. spec.id, 'state', 'scheduled', 'message', 'waiting for earlier steps', 'follows', 1)
end

local close

-- Let a job start that waited for earlier ones; also one that was given up, when the step before it was replayed. One that was
-- cancelled while it waited ends here, so that what came before it is undone.
local function release(id)
  local job = 'job:' .. id
  if redis.call('HDEL', job, 'follows') == 0 then return end
  local name, queue, priority, cancel = unpack(redis.call('HMGET', job, 'name', 'queue', 'priority', 'cancel'))
  if cancel then return close(id, 'cancelled', '', '', name, queue, {'message', 'cancelled'}) end
  redis.call('HSET', job, 'state', 'queued', 'submitted_at', now)
  redis.call('HDEL', job, 'message', 'error', 'finished_at')
  redis.call('PERSIST', job)
  redis.call('PERSIST', message_of(id))
  count('enqueued', name, queue, '')
  enqueue(id, queue, priority, now_ms)
end

-- Jobs one after the other: the first may start, each of the others waits for the one before.
local function start_sequence(specs, failed_step)
  for i, spec in ipairs(specs) do
    if redis.call('EXISTS', 'job:' .. spec.id) == 0 then
      follow(spec)
      if failed_step then redis.call('HSET', 'job:' .. spec.id, 'failed_step', failed_step) end
    end
  end
  release(specs[1].id)
end

-- What waits for a job that has ended: the next step, the compensation, the fan-in of its group. `ran` is false for a step that
-- was given up because one before it had failed: there is nothing of it to undo.
local function settle(id, state, why, ran)
  local name, following, on_error, own_undo, started_at, group, part =
    unpack(redis.call('HMGET', 'job:' .. id, 'name', 'next', 'on_error', 'own_undo', 'started_at', 'group', 'part'))
  if why == '' then why = state end
  if following and state == 'succeeded' then
    local input = redis.call('HGET', 'job:' .. following, 'input')
    if input and string.sub(input, 1, 7) == 'result:' then  -- this job may be the replay of the one that is named there
      redis.call('HSET', 'job:' .. following, 'input', 'result:' .. id)
    end
    release(following)
  elseif following and redis.call('HEXISTS', 'job:' .. following, 'follows') == 1 then
    local because = ran and 'step ' .. name .. ' (job ' .. id .. ') ' .. state .. (why ~= state and ': ' .. why or '') or why
    local ends_as = redis.call('HEXISTS', 'job:' .. following, 'cancel') == 1 and 'cancelled' or 'failed'
    redis.call('HSET', 'job:' .. following, 'state', ends_as, 'error', because, 'finished_at', now)
    redis.call('EXPIRE', 'job:' .. following, RECORD_TTL)
    redis.call('EXPIRE', message_of(following), RECORD_TTL)
    settle(following, ends_as, because, false)
  end
  if on_error and ran and state ~= 'succeeded' then
    local specs = cjson.decode(on_error)
    if own_undo and not started_at then table.remove(specs, 1) end  -- it never began
    if specs[1] then start_sequence(specs, id) end
  end
  if group then
    local members = 'group:' .. group
    local outcome = {ok = state == 'succeeded', job_id = id, error = state ~= 'succeeded' and why or nil}
    if redis.call('HSETNX', members, part, cjson.encode(outcome)) == 1 then
      local total, fan_in = unpack(redis.call('HMGET', members, 'total', 'then'))
      if redis.call('HLEN', members) - 2 == tonumber(total) then release(fan_in) end
    end
    redis.call('EXPIRE', members, RECORD_TTL)
  end
end

-- The end of a job for good: it leaves its queue, its key and result live on for their times, others follow. `values` are field,
-- value pairs.
function close(id, state, result, letter, name, queue, values)
  local job = 'job:' .. id
  local priority, key, slots = unpack(redis.call('HMGET', job, 'priority', 'key', 'slots'))
  give_back(slots)
  if not priority then redis.call('HSET', job, 'priority', 5) end  -- Redis has lost the record meanwhile
  redis.call('HSET', job, 'state', state, 'name', name, 'queue', queue, 'finished_at', now, unpack(values))
  redis.call('HDEL', job, 'due_at')
  redis.call('EXPIRE', job, RECORD_TTL)
  redis.call('DEL', message_of(id))
  redis.call('ZREM', waiting_in(queue, priority or 5), id)
  if result == '' and state == 'cancelled' then result = CANCELLED end
  if result ~= '' then redis.call('SET', 'arq:result:' .. id, result, 'EX', RESULT_TTL) end
  local claim = claim_of(name, key)
  if claim and holder_of(claim) == id then
    if state == 'cancelled' then redis.call('DEL', claim) else redis.call('EXPIRE', claim, KEY_TTL) end
  end
  if letter ~= '' then
    redis.call('SET', 'dead:' .. id, letter)
    redis.call('HINCRBY', 'dead:queues', queue, redis.call('ZADD', 'dead', now, id))
  end
  settle(id, state, redis.call('HGET', job, 'error') or '', true)
end

-- Nobody runs it any more. Answers the state it was in.
local function leave(id, name, queue, outcome)
  local state, run_at = unpack(redis.call('HMGET', 'job:' .. id, 'state', 'run_at'))
  redis.call('DEL', lease_of(id))
  redis.call('ZREM', running_in(queue), id)
  if redis.call('GET', 'lock:' .. name) == id then redis.call('DEL', 'lock:' .. name) end
  if state == 'running' then
    count('finished', name, queue, outcome)
    observe('duration', name, queue, now - tonumber(run_at or now), DURATION_BUCKETS)
  end
  return state
end

local function cancel(id)
  local job = 'job:' .. id
  local state, name, queue = unpack(redis.call('HMGET', job, 'state', 'name', 'queue'))
  if not state or final(state) then return state end
  redis.call('HSET', job, 'cancel', 1)
  if redis.call('EXISTS', lease_of(id)) == 1 then
    redis.call('PUBLISH', 'arq:interrupt', id)
    return state
  end
  if redis.call('HEXISTS', job, 'follows') == 1 then
    redis.call('HSET', job, 'message', 'cancelled; ends with the step before it')
    local before = redis.call('HGET', job, 'after')
    if before then cancel(before) end
    return state
  end
  leave(id, name, queue, 'lost')  -- if it was running, its worker is dead
  close(id, 'cancelled', '', '', name, queue, {'message', 'cancelled'})
  return state
end

-- What other clients asked of arq's `Job.abort()`.
local function abort()
  for _, id in ipairs(redis.call('ZRANGE', 'arq:abort', 0, 99)) do
    redis.call('ZREM', 'arq:abort', id)
    if not cancel(id) and redis.call('EXISTS', message_of(id)) == 1 then  -- enqueued by such a client: no record yet
      redis.call('HSET', 'job:' .. id, 'cancel', 1)
    end
  end
end

-- May a job be taken from the worker that holds it, when its lease is over? After an outage, or a jump of this clock, that is long
-- enough for leases to end, all seem over while their workers live: those renew them first. An idle worker looks each second.
local function may_take_over()
  local last, steady = string.match(redis.call('GET', 'arq:clock') or '0 0', '^(%S+) (%S+)$')
  last, steady = tonumber(last), tonumber(steady)
  if now - last > math.max(LEASE / 1000 - RENEWAL, 3) or now < last - 1 then steady = now end
  if now - last > 0.5 or now < last then
    redis.call('SET', 'arq:clock', string.format('%.3f %.3f', now, steady))
  end
  return now - steady > RENEWAL + 2
end

-- May this job run, now that its turn has come? Answers nil if not, else what to do with it; whoever gets the answer holds it.
local function start(id, owner, queue, priority, jobs, take_over)
  local job, message = 'job:' .. id, redis.call('GET', message_of(id))
  local known = redis.call('HMGET', job, 'state', 'name', 'key', 'trace_id', 'root', 'input', 'failed_step', 'fingerprint',
    'due_at', 'submitted_at', 'singleton', 'lost', 'retries', 'cancel', 'expires_in', 'polls', 'traceparent', 'tracestate')
  local state, name, cancelled, expires_in = known[1], known[2], known[14], known[15]
  if final(state) then
    redis.call('ZREM', waiting_in(queue, priority), id)
    return nil
  end
  local left = redis.call('PTTL', lease_of(id))
  if left > 0 then
    redis.call('ZADD', waiting_in(queue, priority), now_ms + left, id)
    return nil
  end
  if state == 'running' and not take_over and redis.call('ZSCORE', running_in(queue), id) then
    redis.call('ZADD', waiting_in(queue, priority), now_ms + 1000, id)
    redis.call('ZADD', running_in(queue), now_ms + 1000, id)
    return nil
  end

  -- All who wait for one lock or key look for it 10 times a second together, each after 1 s at the earliest.
  local function wait_for(other, held)
    local line = 'look:' .. held
    local look = math.max(now + 1, (redis.call('GET', line) or 0) + 0.1)
    redis.call('SET', line, look, 'PX', math.ceil((look - now) * 1000) + 1000)
    redis.call('DEL', lease_of(id))
    redis.call('ZREM', running_in(queue), id)
    redis.call('HSET', job, 'state', 'scheduled', 'due_at', look, 'message', 'waiting for ' .. other)
    redis.call('ZADD', waiting_in(queue, priority), math.ceil(look * 1000), id)
  end

  hold(id, owner, queue, priority)
  if not name then  -- enqueued by a client that is not ours
    local ok, decoded = pcall(cjson.decode, message or '')
    if not ok or type(decoded) ~= 'table' or type(decoded.f) ~= 'string' or string.find(decoded.f, '|', 1, true) then
      return {'undecodable', id, queue, priority, 1, message or '', {}, ''}
    end
    name = decoded.f
    local sent_at, singleton = string.format('%.3f', (tonumber(decoded.et) or now_ms) / 1000), cjson.decode(jobs)[name]
    known = {false, name, false, id, id, false, false, false, false, sent_at, singleton or ''}
    redis.call('HSET', job, 'name', name, 'queue', queue, 'priority', priority, 'root', id, 'trace_id', id,
      'submitted_at', sent_at, 'singleton', singleton or '')
    if not singleton then  -- no job of ours: anybody may send any name, and none of them becomes a metric's label
      return {'unknown', id, queue, priority, 1, message, known, ''}
    end
    count('enqueued', name, queue, '')
  end
  local function answer(action, detail) return {action, id, queue, priority, (known[13] or 0) + 1, message or '', known, detail} end

  if cancelled then
    leave(id, name, queue, 'lost')  -- if it was running, its worker is dead
    close(id, 'cancelled', '', '', name, queue, {'message', 'cancelled'})
    return nil
  end

  local lost = tonumber(known[12] or 0)
  if state == 'running' then  -- the last run ended without a word: its worker died
    count('finished', name, queue, 'lost')
    lost = redis.call('HINCRBY', job, 'lost', 1)
    redis.call('HSET', job, 'state', 'queued')  -- no run that is still to be counted
    if lost >= MAX_DELIVERIES then return answer('poison', lost) end
  end

  local late = expires_in and now - known[10] - expires_in or 0
  if late > 0 and redis.call('HEXISTS', job, 'started_at') == 0 then return answer('expired', string.format('%.1f', late)) end

  local claim = claim_of(name, known[3])
  if claim then
    local holder = holder_of(claim)
    if holder ~= '' and holder ~= id then
      local other = redis.call('HGET', 'job:' .. holder, 'state')
      if other == 'succeeded' then return answer('duplicate', holder) end
      if other and not final(other) then return wait_for(holder, claim) end
    end
    redis.call('SET', claim, id .. '|' .. (known[8] or ''))
  end

  local singleton = known[11] or ''
  if singleton ~= '' then
    local holder = redis.call('GET', 'lock:' .. name)
    if holder and holder ~= id then
      if singleton == 'skip' then return answer('skipped', holder) end
      return wait_for(holder, 'lock:' .. name)
    end
    redis.call('SET', 'lock:' .. name, id, 'PX', LEASE)
  end

  redis.call('HSET', job, 'state', 'running', 'run_at', now, 'queue', queue, 'priority', priority)
  redis.call('HSETNX', job, 'started_at', now)
  redis.call('HDEL', job, 'due_at', 'message')
  count('started', name, queue, '')
  observe('wait', name, queue, now - tonumber(known[9] or known[10] or now), WAIT_BUCKETS)
  -- One death more and it is poison: alone, so that it cannot take the jobs beside it along a third time.
  local detail = lost > 0 and lost == MAX_DELIVERIES - 1 and 'alone' or ''
  redis.call('HINCRBY', job, 'attempts', 1)
  return answer('run', detail)
end

local steps = {}

-- ARGV: 1 id, 2 name, 3 key ('' = none), 4 fingerprint, 5 '1' = take the key from a job that has ended, 6 delay in ms,
--       7 message, 8… field, value pairs of the record. Answers who holds the key, the fingerprint of its payload, and 1 if the
--       job is new.
function steps.submit()
  local id, name, delay = ARGV[1], ARGV[2], tonumber(ARGV[6])
  local job, claim = 'job:' .. id, claim_of(name, ARGV[3])
  if claim then
    local holder, fingerprint = holder_of(claim)
    if holder ~= '' and holder ~= id then
      local state = redis.call('HGET', 'job:' .. holder, 'state')
      if ARGV[5] ~= '1' or (state and not final(state)) then return {holder, fingerprint, 0} end
    end
    redis.call('SET', claim, id .. '|' .. ARGV[4])  -- lasts as long as the job; its end sets a time
  end
  if redis.call('EXISTS', job) == 1 then return {id, ARGV[4], 0} end
  create({id = id, message = ARGV[7], fields = {unpack(ARGV, 8)}})
  redis.call('HSET', job, 'state', delay > 0 and 'scheduled' or 'queued')
  if delay > 0 then redis.call('HSET', job, 'due_at', now + delay / 1000) end
  local queue, priority = unpack(redis.call('HMGET', job, 'queue', 'priority'))
  count('enqueued', name, queue, '')
  enqueue(id, queue, priority, now_ms + delay)
  return {id, ARGV[4], 1}
end

-- ARGV: 1 jobs in their order (JSON: id, message, fields)
function steps.sequence() start_sequence(cjson.decode(ARGV[1])) end

-- The fan-in of a group, before its parts are submitted.
-- ARGV: 1 group, 2 number of parts, 3 the fan-in (JSON: id, message, fields)
function steps.group()
  local spec = cjson.decode(ARGV[3])
  if redis.call('EXISTS', 'job:' .. spec.id) == 1 then return end
  follow(spec)
  redis.call('HSET', 'group:' .. ARGV[1], 'total', ARGV[2], 'then', spec.id)
  redis.call('EXPIRE', 'group:' .. ARGV[1], RECORD_TTL)
end

-- Take due jobs, most urgent first; also those whose lease is over.
-- ARGV: 1 owner, 2 how many, 3 the jobs there are (JSON: name → 'wait', 'skip' or ''), 4… queues in order.
-- Answers the jobs, and if there are none in how many ms to look again (-1: nothing is there).
function steps.take()
  local owner, free, taken, take_over = ARGV[1], tonumber(ARGV[2]), {}, may_take_over()
  abort()
  for i = 4, #ARGV do
    local queue = ARGV[i]
    for priority = 9, 0, -1 do
      local waiting = waiting_in(queue, priority)
      local ids = free > 0 and redis.call('ZRANGE', waiting, '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, free) or {}
      while #ids > 0 do
        for _, id in ipairs(ids) do
          local answer = start(id, owner, queue, priority, ARGV[3], take_over)
          if answer then
            taken[#taken + 1] = answer
            free = free - 1
            if answer[8] == 'alone' then return {taken, 0} end
          end
        end
        ids = free > 0 and redis.call('ZRANGE', waiting, '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, free) or {}
      end
    end
  end
  local look = -1
  if #taken == 0 then
    for i = 4, #ARGV do
      for priority = 0, 9 do
        local due = redis.call('ZRANGE', waiting_in(ARGV[i], priority), 0, 0, 'WITHSCORES')[2]
        if due then look = look < 0 and due - now_ms or math.min(look, due - now_ms) end
      end
    end
    if look ~= -1 then look = math.max(look, 1) end
  end
  return {taken, look}
end

-- A run ended: state, result, idempotency key, lock, dead letter, counters, queue and workflow change together, once.
-- ARGV: 1 id, 2 owner, 3 state, 4 outcome, 5 result ('' = none), 6 name, 7 queue, 8 ms until it runs again, 9 dead letter ('' =
--       none), 10… field, value pairs. Answers 0 if it had ended before, or if another worker has it now.
function steps.finish()
  local id, state, name, queue, delay = ARGV[1], ARGV[3], ARGV[6], ARGV[7], tonumber(ARGV[8])
  local job, holder = 'job:' .. id, redis.call('GET', lease_of(ARGV[1]))
  local known = redis.call('HGET', job, 'state')
  if final(known) then return 0 end
  if not final(state) and (not known or (holder and holder ~= ARGV[2])) then return 0 end  -- not known: Redis has lost it
  local was = leave(id, name, queue, ARGV[4])
  local cancel, following, on_error = unpack(redis.call('HMGET', job, 'cancel', 'next', 'on_error'))
  if cancel and state == 'succeeded' and (following or on_error) then  -- of a chain: it stops here, and undoes what was done
    close(id, 'cancelled', '', '', name, queue, {'message', 'cancelled while it ran; it succeeded all the same'})
    return 1
  end
  if final(state) then
    close(id, state, ARGV[5], ARGV[9], name, queue, {unpack(ARGV, 10)})
    return 1
  end
  if cancel then  -- asked too late to stop this run, it ends before the next
    close(id, 'cancelled', '', '', name, queue, {'message', 'cancelled'})
    return 1
  end
  redis.call('HSET', job, 'state', state, 'queue', queue, unpack(ARGV, 10))
  if delay > 0 then redis.call('HSET', job, 'due_at', now + delay / 1000) end
  if ARGV[4] ~= 'handed_back' or delay == 0 then redis.call('HDEL', job, 'lost') end  -- it can end without killing its worker
  if state == 'retrying' then
    redis.call('HINCRBY', job, 'retries', 1)
  elseif was == 'running' then
    redis.call('HINCRBY', job, 'attempts', -1)  -- waiting is no attempt
  end
  enqueue(id, queue, redis.call('HGET', job, 'priority') or 5, now_ms + delay)
  return 1
end

-- Keep what a worker runs, also after Redis was away for longer than a lease, unless another worker has taken it.
-- ARGV: 1 owner, 2 name of the worker, 3 its entry (JSON), 4… id, name, queue of each. Answers those that were cancelled meanwhile.
function steps.renew()
  local cancelled, entry = {}, cjson.decode(ARGV[3])
  entry.seen_at = now
  redis.call('HSET', 'workers', ARGV[2], cjson.encode(entry))
  for i = 4, #ARGV, 3 do
    local id, name, queue = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local state, priority, cancel = unpack(redis.call('HMGET', 'job:' .. id, 'state', 'priority', 'cancel'))
    local holder = redis.call('GET', lease_of(id))
    if state == 'running' and (not holder or holder == ARGV[1]) then
      hold(id, ARGV[1], queue, priority)
      if redis.call('GET', 'lock:' .. name) == id then redis.call('PEXPIRE', 'lock:' .. name, LEASE) end
    end
    if cancel then cancelled[#cancelled + 1] = id end
  end
  return cancelled
end

-- An answer of `take` got lost: what this worker holds without running it goes back, as if it had not been taken.
-- ARGV: 1 owner, 2 ids that it runs (JSON), 3… queues
function steps.disown()
  local runs = {}
  for _, id in ipairs(cjson.decode(ARGV[2])) do runs[id] = true end
  for i = 3, #ARGV do
    for _, id in ipairs(redis.call('ZRANGE', running_in(ARGV[i]), 0, -1)) do
      if not runs[id] and redis.call('GET', lease_of(id)) == ARGV[1] then
        local name, priority = unpack(redis.call('HMGET', 'job:' .. id, 'name', 'priority'))
        if leave(id, name or '', ARGV[i], 'handed_back') == 'running' then
          redis.call('HINCRBY', 'job:' .. id, 'attempts', -1)
          redis.call('HSET', 'job:' .. id, 'state', 'queued')
        end
        enqueue(id, ARGV[i], priority or 5, now_ms)
      end
    end
  end
end

-- A worker is gone: whoever looks next may take what it held. ARGV: 1 owner, 2… queues. Answers how many jobs that are.
function steps.release()
  local released = 0
  for i = 2, #ARGV do
    for _, id in ipairs(redis.call('ZRANGE', running_in(ARGV[i]), 0, -1)) do
      if redis.call('GET', lease_of(id)) == ARGV[1] then
        redis.call('DEL', lease_of(id))
        redis.call('ZREM', running_in(ARGV[i]), id)
        enqueue(id, ARGV[i], redis.call('HGET', 'job:' .. id, 'priority') or 5, now_ms)
        released = released + 1
      end
    end
  end
  return released
end

-- Cancel what has not started; ask what runs to stop. Answers the state that the job was in. ARGV: 1 id
function steps.cancel() return cancel(ARGV[1]) end

-- Set fields of a job that runs. Answers 1 if it was asked to stop. ARGV: 1 id, 2 field for the time, 3… field, value pairs
function steps.update()
  local job = 'job:' .. ARGV[1]
  if redis.call('EXISTS', job) == 0 then return 0 end
  redis.call('HSET', job, ARGV[2], now, unpack(ARGV, 3))
  return redis.call('HEXISTS', job, 'cancel')
end

-- The first replay of a dead letter names the job that replaces it; later ones learn its name.
-- ARGV: 1 id, 2 id of the new job
function steps.replay()
  local job = 'job:' .. ARGV[1]
  redis.call('HSETNX', job, 'replayed_as', ARGV[2])
  redis.call('EXPIRE', job, RECORD_TTL)
  return redis.call('HGET', job, 'replayed_as')
end

return steps[table.remove(ARGV, 1)]()
