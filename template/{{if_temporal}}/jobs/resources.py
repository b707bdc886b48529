"""What the jobs of one worker share: opened when the first one asks for it.

A client per job would open a connection per job, and leave it open when the job fails.
"""

import asyncio
from weakref import WeakKeyDictionary

import httpx

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


def http() -> httpx.AsyncClient:
    """The client of this event loop: a worker process has one loop, each test has its own."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = httpx.AsyncClient(timeout=10)
    return _clients[loop]
