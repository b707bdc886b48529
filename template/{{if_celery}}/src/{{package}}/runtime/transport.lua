-- Take the most urgent message and note who holds it.
-- KEYS: unacked hash, unacked index, queues in order. ARGV: now, separator, priority steps, content type for undecodable text.
-- A queue's wake list holds at most one token; it is put back while messages remain, so that one token wakes all it must.
local now, sep, steps = ARGV[1], ARGV[2], tonumber(ARGV[3])
local function lists(queue)
  local step = -1
  return function()
    step = step + 1
    if step < steps then return step == 0 and queue or queue .. sep .. step end
  end
end
local function take(queue)
  for list in lists(queue) do
    local item = redis.call('RPOP', list)
    if item then
      local ok, message = pcall(function()
        local decoded = cjson.decode(item)
        assert(type(decoded.headers) == 'table')
        return {decoded.properties.delivery_tag .. '', decoded.properties.delivery_info.exchange .. '',
                decoded.properties.delivery_info.routing_key .. ''}
      end)
      if not ok then
        local tag = 'undecodable-' .. redis.sha1hex(item)
        local text = item:gsub('[^\32-\126]', function(c) return string.format('\\x%02x', c:byte()) end)
        item = cjson.encode({body = text, headers = {id = tag}, ['content-type'] = ARGV[4], ['content-encoding'] = 'utf-8',
          properties = {delivery_tag = tag, priority = 0, delivery_info = {exchange = '', routing_key = queue}}})
        message = {tag, '', queue}
      end
      redis.call('ZADD', KEYS[2], now, message[1])
      redis.call('HSET', KEYS[1], message[1],
        '[' .. item .. ',' .. cjson.encode(message[2]) .. ',' .. cjson.encode(message[3]) .. ']')
      return item
    end
  end
end
local taken
for i = 3, #KEYS do
  local queue = KEYS[i]
  if not taken then
    local item = take(queue)
    if item then taken = {queue, item} end
  end
  if taken then
    for list in lists(queue) do
      if redis.call('EXISTS', list) == 1 then
        if redis.call('EXISTS', queue .. ':wake') == 0 then redis.call('LPUSH', queue .. ':wake', 1) end
        break
      end
    end
  end
end
return taken
