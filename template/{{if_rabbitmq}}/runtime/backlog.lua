-- RabbitMQ tells how many messages a queue holds, not which of them are due nor since when: so each step of record.lua notes
-- where it has left its job. Key: `backlog:<queue>`, by due times what waits, by start times below zero what runs.
local function after(reply, state, queue, since)
  local id, reserved = string.sub(KEYS[1], 5), false
  if not state then  -- the step did not tell
    local due_at, submitted_at, run_at
    state, queue, due_at, submitted_at, run_at, reserved =
      unpack(redis.call('HMGET', KEYS[1], 'state', 'queue', 'due_at', 'submitted_at', 'run_at', 'reserved'))
    since = state == 'running' and run_at or due_at or submitted_at
  end
  if not queue or queue == '' or reserved then return reply end
  if state == 'running' then
    redis.call('ZADD', 'backlog:' .. queue, '-' .. since, id)
  elseif state == 'queued' or state == 'scheduled' or state == 'retrying' then
    redis.call('ZADD', 'backlog:' .. queue, since, id)
  else
    redis.call('ZREM', 'backlog:' .. queue, id)
  end
  return reply
end
