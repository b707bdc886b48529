"""Wake-ups: a worker hears of new and of cancelled jobs at once; by looking now and then each would wait for a look.

Should a word be lost, the worker looks by itself.
"""

import asyncio
from typing import TYPE_CHECKING

from ..runtime.connection import UNAVAILABLE, text

if TYPE_CHECKING:
    from .worker import QueueWorker

INTERRUPT = "arq:interrupt"


async def listen(worker: "QueueWorker") -> None:
    """For ever, also after Redis was away."""
    while True:
        try:
            async with worker.pool.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(INTERRUPT, *(f"arq:wake:{queue}" for queue in worker.queues))
                worker.wake()
                while True:
                    word = await channel.get_message(timeout=30)
                    if word and text(word["channel"]) == INTERRUPT:
                        worker.interrupt(text(word["data"]), "cancelled")
                    elif word:
                        worker.wake()
        except UNAVAILABLE:
            await asyncio.sleep(0.5)
