-- RabbitMQ tells how many messages a queue holds, not which of them are due nor since when: so each step of record.lua notes
-- where it has left its job. Keys: `backlog:<queue>`, due times of what waits; `running:<queue>`, start times.
local function after(reply)
  local id = string.sub(KEYS[1], 5)
  local state, queue, due_at, submitted_at, run_at, reserved =
    unpack(redis.call('HMGET', KEYS[1], 'state', 'queue', 'due_at', 'submitted_at', 'run_at', 'reserved'))
  if not queue or queue == '' or reserved then return reply end
  if state == 'running' then
    redis.call('ZREM', 'backlog:' .. queue, id)
    redis.call('ZADD', 'running:' .. queue, run_at, id)
  elseif state == 'queued' or state == 'scheduled' or state == 'retrying' then
    redis.call('ZREM', 'running:' .. queue, id)
    redis.call('ZADD', 'backlog:' .. queue, due_at or submitted_at, id)
  elseif redis.call('ZREM', 'running:' .. queue, id) == 0 then
    redis.call('ZREM', 'backlog:' .. queue, id)
  end
  return reply
end
