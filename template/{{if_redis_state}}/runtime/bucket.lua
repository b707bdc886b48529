-- Take a token, or reserve the next one for the job that must wait, so that each waiter is woken once, when its token is there.
-- The bucket is two times from which it would be full again (GCRA): with every token that is reserved, and with those taken alone.
-- KEYS: 1 bucket, 2 slots (times of tokens) that were given back, 3 the job's record ('' outside of a job: nothing is reserved).
-- ARGV: 1 rate per second, 2 burst, 3 the bucket's name. Returns the seconds to wait, '0' if a token was taken. The server's clock.
local LATE = 0.1  -- seconds by which a wake-up may be late and cost no other waiter its slot
local step, burst, name = 1 / ARGV[1], tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local reserved, taken = unpack(redis.call('HMGET', KEYS[1], 'reserved', 'taken'))
reserved, taken = tonumber(reserved or 0), math.max(tonumber(taken or 0), now)

local function free(from, to) return tonumber(redis.call('ZRANGE', KEYS[2], from, to, 'BYSCORE', 'LIMIT', 0, 1)[1]) end
local function use(slot) return redis.call('ZREMRANGEBYSCORE', KEYS[2], slot - step / 4, slot + step / 4) end
local function has_token(extra) return taken - now <= (burst - 1) * step + extra end

redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - burst * step)
local last = redis.call('ZRANGE', KEYS[2], -1, -1)[1]
while last and last + 0 > reserved - (burst + 0.5) * step do  -- the last slot of all: no longer reserved
  use(last)
  reserved = reserved - step
  last = redis.call('ZRANGE', KEYS[2], -1, -1)[1]
end
reserved = math.max(reserved, taken)

local function reserve()
  local slot = free('(' .. now, '+inf')
  if slot then
    use(slot)
    return slot
  end
  reserved = reserved + step
  return reserved - burst * step
end

local run_at, slots
if KEYS[3] ~= '' then run_at, slots = unpack(redis.call('HMGET', KEYS[3], 'run_at', 'slots')) end
slots = cjson.decode(slots or '{}')
local mine = slots[name] or {held = {}, taken = 0}
if mine.run ~= run_at then mine.run, mine.taken = run_at, 0 end
local held, wait, given_back = mine.held, 0, free('-inf', now)

if #held > 0 and held[#held] > now + 0.005 then  -- too early: it keeps its slots
  wait = held[#held] - now
elseif #held > 0 and (mine.taken > 0 or has_token(step + LATE)) then
  table.remove(held, 1)
elseif #held == 0 and reserved - now <= (burst - 1) * step then
  reserved = reserved + step
elseif #held == 0 and given_back and has_token(0) then
  use(given_back)
elseif not run_at then
  wait = math.max(math.min(free('(' .. now, '+inf') or reserved, reserved - (burst - 1) * step), taken - (burst - 1) * step) - now
else  -- a token for each that this run has taken, too, since its next run takes them again
  if #held > 0 then held[1] = reserve() end  -- it came so late that others have had its token
  while #held < mine.taken + 1 do held[#held + 1] = reserve() end
  table.sort(held)
  wait = held[#held] - now
end
if wait <= 0 then
  taken, mine.taken, wait = taken + step, mine.taken + 1, 0
end

redis.call('HSET', KEYS[1], 'reserved', reserved, 'taken', taken)
redis.call('PEXPIRE', KEYS[1], math.ceil((math.max(reserved, taken) - now) * 1000) + 1000)
if run_at then
  slots[name] = mine
  redis.call('HSET', KEYS[3], 'slots', cjson.encode(slots))
end
return tostring(wait)
