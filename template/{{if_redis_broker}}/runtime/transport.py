"""Take a message and note who holds it in one step, so that a worker killed at any instant loses nothing.

Kombu's Redis transport pops a message (BRPOP) and writes it down as unacknowledged with a second command; whatever
dies in between is gone. Here one script does both. It also reads queues strictly in their order (kombu goes through
one priority of all queues after the other), lets 9 be the most urgent priority as on RabbitMQ, and turns text that is
no message into one the consumer can refuse. Keys and message format stay kombu's own: other Celery clients and KEDA
see what they expect.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from queue import Empty
from time import monotonic
from typing import Any

import kombu.transport
from celery.worker import state
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str

from ..settings import settings
from .connection import UNAVAILABLE
from .connection import redis as redis_client
from .serializer import dumps, loads

AFTER_EACH_STEP = "local function after(reply) return reply end\n"  # nothing: the messages themselves tell the backlog
INDEX = "unacked_index"  # kombu's sorted set of unacknowledged deliveries, scored by time
TAKE = (files(__package__ or "") / "transport.lua").read_text(encoding="utf-8")

# Times are those of Redis' clock: a worker's, an hour ahead, would take all deliveries from the others.
# KEYS: index, unacked hash. ARGV: seconds after which a delivery is overdue, how many.
OVERDUE = """local until_then = redis.call('TIME')[1] - ARGV[1]
local tags = redis.call('ZRANGE', KEYS[1], '-inf', until_then, 'BYSCORE', 'LIMIT', 0, ARGV[2])
return #tags == 0 and {} or {tags, redis.call('HMGET', KEYS[2], unpack(tags))}"""
# KEYS: index, unacked hash, message list. ARGV: seconds as above, delivery tag, message.
RESTORE = """local taken_at = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not taken_at or tonumber(taken_at) > redis.call('TIME')[1] - ARGV[1] then return end
redis.call('ZREM', KEYS[1], ARGV[2])
if redis.call('HDEL', KEYS[2], ARGV[2]) == 1 then redis.call('RPUSH', KEYS[3], ARGV[3]) end"""
# KEYS: index. ARGV: delivery tags.
RENEW = """local time = redis.call('TIME')
for _, tag in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', time[1] + time[2] / 1e6, tag) end"""
UNDECODABLE = "application/x-undecodable"  # the content type of what is no message
HANDED_BACK = 1e9  # seconds: only a delivery whose time is set to 0 is older
AT_ONCE = 100  # messages put back in one look
SILENCE = 5.0  # seconds without an answer of Redis that make an outage

# KEYS: message list, wake list. ARGV: message. The token may expire: an idle worker looks every second anyway.
PUT = """redis.call('LPUSH', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('LPUSH', KEYS[2], 1) end
redis.call('EXPIRE', KEYS[2], 60)"""


class QoS(redis.QoS):
    """Knows which deliveries TAKE has already written down, and settles them through a connection of its own.

    A job may outlive the connection that its message came by; kombu's QoS then fails, and ends the worker.
    """

    taken: str | None = None
    answered_at = -math.inf  # when Redis last answered this process's look (monotonic)
    back_since = -math.inf  # since when it answers, after an outage

    def append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag == self.taken:
            super(redis.QoS, self).append(message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        with redis_client().pipeline() as pipe:
            pipe.zrem(self.unacked_index_key, delivery_tag)
            pipe.hdel(self.unacked_key, delivery_tag)
            pipe.execute()
        super(redis.QoS, self).ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """With `requeue`, overdue: some worker takes it within a second."""
        if not requeue:
            return self.ack(delivery_tag)
        redis_client().zadd(self.unacked_index_key, {delivery_tag: 0}, xx=True)
        return super(redis.QoS, self).ack(delivery_tag)

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Put overdue deliveries back into their queues: their worker is dead, or has handed them back.

        Not within a renewal after an outage, which let all deliveries look overdue: living workers renew theirs first.
        """
        now = monotonic()
        if now - QoS.answered_at > SILENCE:
            QoS.back_since = now
        settled = now - QoS.back_since > settings().renewal
        after = settings().lease if settled else HANDED_BACK
        with self.channel.conn_or_acquire() as client:
            keys = self.unacked_index_key, self.unacked_key
            tags, texts = client.eval(OVERDUE, 2, *keys, after, AT_ONCE) or ((), ())
            QoS.answered_at = monotonic()
            for tag, text in zip(tags, texts, strict=True):
                list_name, message = self._redelivered(text) if text else ("", "")
                client.eval(RESTORE, 3, *keys, list_name, after, tag, message)

    def _redelivered(self, text: bytes) -> tuple[str, str]:
        """The list for a message that is put back, and its text."""
        message, exchange, routing_key = loads(text.decode("utf-8", "replace"))
        message["properties"]["delivery_info"]["redelivered"] = True
        priority = self.channel._get_message_priority(message)
        return self.channel._q_for_pri(self.channel._lookup(exchange, routing_key)[0], priority), dumps(message)

    def restore_unacked(self, client: Any = None) -> None:
        """When a channel closes, what does not run is due again at once; what runs is settled when it ends."""
        delivered: Any = self._delivered
        running = {request.message.delivery_tag for request in state.active_requests}
        if overdue := {tag: 0 for tag in delivered if tag not in running}:
            with suppress(*UNAVAILABLE):
                redis_client().zadd(self.unacked_index_key, overdue, xx=True)
        delivered.clear()


class Message(virtual.Message):
    """A body that cannot be read becomes one that the consumer can refuse; kombu's error would end the worker."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel, **options)
        except (AttributeError, LookupError, TypeError, ValueError):
            properties = {**payload["properties"], "body_encoding": None}
            kept = {"body": str(payload.get("body")), "content-type": UNDECODABLE, "content-encoding": "utf-8"}
            super().__init__({**payload, **kept, "properties": properties}, channel, **options)


class TakingChannel:
    """What our channels add to kombu's; kombu calls the methods that read the blocking connection `_brpop_*`."""

    QoS, Message = QoS, Message
    _idle = False

    def _get_message_priority(self: Any, message: dict[str, Any], reverse: bool = False) -> int:
        """9 is the most urgent for callers, 0 for kombu's Redis lists."""
        return super()._get_message_priority(message, reverse=True)

    def _put(self: Any, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if "_publish_batch" in kwargs:
            super()._put(queue, message, **kwargs)
            return
        key = self._q_for_pri(queue, self._get_message_priority(message))
        with self.conn_or_acquire() as client:
            client.eval(PUT, 2, key, f"{queue}:wake", dumps(message))

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        if self._idle:
            command = ["BRPOP", *(f"{queue}:wake" for queue in queues), timeout or self.brpop_timeout]
        else:
            keys = [self.unacked_key, self.unacked_index_key, *queues]
            command = ["EVAL", TAKE, len(keys), *keys, self.sep, len(self.priority_steps)]
        self.client.connection.send_command(*command)

    def _brpop_read(self: Any, **options: Any) -> bool:
        woken, self._idle = self._idle, False
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BRPOP" if woken else "EVAL", **options)
            except self.connection_errors:
                self.client.connection.disconnect()  # the next turn of the loop connects again
                raise
            if woken:
                raise Empty
            if not reply:
                self._idle = True
                raise Empty
            queue, item = bytes_to_str(reply[0]), loads(reply[1].decode("utf-8", "replace"))
            self._queue_cycle.rotate(queue)
            self.qos.taken = item["properties"]["delivery_tag"]
            item["properties"]["delivery_info"].update(exchange="", routing_key=queue)  # whatever its sender wrote
            self.connection._deliver(item, queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()


class Channel(TakingChannel, redis.Channel):
    """For redis:// and rediss://."""


class SentinelChannel(TakingChannel, redis.SentinelChannel):
    """For sentinel://."""


class Transport(redis.Transport):
    """Kombu's transport with our channel."""

    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    """Kombu's Sentinel transport with our channel."""

    Channel = SentinelChannel


def renew(client: Any, delivery_tags: Sequence[str]) -> None:
    """A worker still has these in hand: no other may take them for another `lease`."""
    if delivery_tags:
        client.eval(RENEW, 1, INDEX, *delivery_tags)


def hand_back(client: Any, delivery_tags: Sequence[str]) -> None:
    """A delivery of time 0 is overdue: the next worker that looks, within a second, takes it."""
    if delivery_tags:
        client.zadd(INDEX, dict.fromkeys(delivery_tags, 0), xx=True)


def bring_forward(job_id: str) -> None:
    """Nothing: a message that is not due yet is held by a worker, which takes it when it is asked (`interrupt`)."""


def install() -> None:
    """Let Redis URLs use these transports: by alias, since kombu looks the scheme up again at each failover."""
    kombu.transport.TRANSPORT_ALIASES.update(
        redis=f"{__name__}:Transport", rediss=f"{__name__}:Transport", sentinel=f"{__name__}:SentinelTransport"
    )
