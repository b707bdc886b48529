"""What is not due yet waits in Redis, where neither its number nor its delay holds up a worker.

RabbitMQ hands a delayed message to a worker at once, which holds it, with thousands of others, until it is due, and
gets none else meanwhile. Celery's own remedy, 28 quorum queues that each message wanders through, knows whole seconds
only: retries and snoozes are shorter.
"""

import json
import uuid
from datetime import datetime
from typing import Any, NamedTuple

from .connection import redis

MOVING = 10.0  # seconds in which a worker must have sent on what it took; then another one does
AT_ONCE = 100  # messages
WAKE = "delayed:wake"

# KEYS: due times, messages, wake list, messages by job, record. ARGV: id, due, message, job. One that was cancelled
# before it was sent, as a later step, is due at once: what waits for it must know.
PARK = """local cancelled = redis.call('HEXISTS', KEYS[5], 'cancel') == 1
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[1], cancelled and 0 or ARGV[2], ARGV[1])
redis.call('HSET', KEYS[4], ARGV[4], ARGV[1])
if redis.call('ZRANK', KEYS[1], ARGV[1]) == 0 then
  redis.call('DEL', KEYS[3])
  redis.call('LPUSH', KEYS[3], 1)
  redis.call('EXPIRE', KEYS[3], 60)
end"""
# KEYS: due times, messages. ARGV: now, until when they are ours, how many. Answers ids and messages in turn, and when
# the next one is due.
TAKE = """local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[3])
local taken = {}
for _, id in ipairs(due) do
  redis.call('ZADD', KEYS[1], ARGV[2], id)
  taken[#taken + 1] = id
  taken[#taken + 1] = redis.call('HGET', KEYS[2], id)
end
return {taken, redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or false}"""
KEYS = ("delayed", "delayed:messages")
JOBS = "delayed:jobs"


class Due(NamedTuple):
    """A message to be sent now."""

    id: str
    queue: str
    body: str
    properties: dict[str, Any]


def due_time(headers: dict[str, Any]) -> float:
    """When a message is due, in seconds since 1970; 0 is at once."""
    return datetime.fromisoformat(eta).timestamp() if (eta := headers.get("eta")) else 0.0


def park(message: Any, queue: str, due: float) -> None:
    """Keep an AMQP message until `due` (seconds since 1970); its body is JSON."""
    body = message.body if isinstance(message.body, str) else bytes(message.body).decode()
    kept = json.dumps([queue, body, message.properties])
    job_id = message.properties["application_headers"]["id"]
    redis().eval(PARK, 5, *KEYS, WAKE, JOBS, f"job:{job_id}", uuid.uuid4().hex, due, kept, job_id)


def bring_forward(job_id: str) -> None:
    """Make this job's message due."""
    if parked := redis().hget(JOBS, job_id):
        redis().zadd(KEYS[0], {str(parked): 0}, xx=True)
        redis().lpush(WAKE, 1)
        redis().expire(WAKE, 60)


def take(client: Any, now: float) -> tuple[list[Due], float | None]:
    """What is due, to be sent within MOVING; and when the next one is due."""
    flat, following = client.eval(TAKE, 2, *KEYS, now, now + MOVING, AT_ONCE)
    found = [Due(name, *json.loads(kept)) for name, kept in zip(flat[::2], flat[1::2], strict=True)]
    return found, float(following) if following else None


def sent(client: Any, message: Due) -> None:
    """The broker has it: forget it."""
    job_id = message.properties["application_headers"]["id"]
    client.pipeline().zrem(KEYS[0], message.id).hdel(KEYS[1], message.id).hdel(JOBS, job_id).execute()
