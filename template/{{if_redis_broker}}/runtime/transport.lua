-- Take the most urgent message and note who holds it.
-- KEYS: 1 unacked hash, 2 unacked index, 3… queues in order. ARGV: 1 separator, 2 priority steps.
-- A queue's wake list holds at most one token; it is put back while messages remain, so that one token wakes all it must.
local lists, queue_of = {}, {}
for i = 3, #KEYS do
  for step = 0, ARGV[2] - 1 do
    local list = step == 0 and KEYS[i] or KEYS[i] .. ARGV[1] .. step
    lists[#lists + 1] = list
    queue_of[list] = KEYS[i]
  end
end
local call = {#lists, unpack(lists)}
call[#call + 1] = 'RIGHT'
local popped = redis.call('LMPOP', unpack(call))
if not popped then return nil end

local queue, item = queue_of[popped[1]], popped[2][1]
local ok, tag = pcall(function()
  local decoded = cjson.decode(item)
  assert(type(decoded.headers) == 'table')
  assert(type(decoded.properties.delivery_info) == 'table')
  return decoded.properties.delivery_tag .. ''
end)
if not ok then
  tag = 'undecodable-' .. redis.sha1hex(item)
  local text = item:gsub('[^\32-\126]', function(c) return string.format('\\x%02x', c:byte()) end)
  item = cjson.encode({body = text, headers = {id = tag}, ['content-type'] = 'application/x-undecodable', ['content-encoding'] = 'utf-8',
    properties = {delivery_tag = tag, priority = 0, delivery_info = {exchange = '', routing_key = queue}}})
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] + time[2] / 1e6, tag)
redis.call('HSET', KEYS[1], tag, '[' .. item .. ',"",' .. cjson.encode(queue) .. ']')

for i = 3, #KEYS do
  local first = (i - 3) * ARGV[2] + 1
  if redis.call('EXISTS', unpack(lists, first, first + ARGV[2] - 1)) > 0 and redis.call('EXISTS', KEYS[i] .. ':wake') == 0 then
    redis.call('LPUSH', KEYS[i] .. ':wake', 1)
  end
end
return {queue, item}
