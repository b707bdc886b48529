"""The format of what is in Redis, as a number: a release with a newer one takes the old state over when it starts, in
one step, and a release that is older than the state does not start.

Without it an update, a rollback or a forgotten worker reads records that it does not understand, and loses or repeats
jobs.
"""

import asyncio
from inspect import isawaitable
from typing import Any

import structlog

from ..contract import ContractError
from ..runtime.connection import UNAVAILABLE, connect
from ..settings import settings

log = structlog.get_logger(__name__)

FORMAT = 1
"""Of records, dead letters, schedules, counters and messages; what has no number is format 1."""

MIGRATIONS: dict[int, str] = {}
"""To each format from the one before it: Lua that changes every key at once. Run twice it must do no harm."""

KEY = "state:format"
TAKE_OVER = """
local wanted, silent_since = tonumber(ARGV[1]), redis.call('TIME')[1] - ARGV[2]
local found = tonumber(redis.call('GET', KEYS[1]) or 1)
local live = {}
if found < wanted then
  local workers = redis.call('HGETALL', 'workers')
  for i = 1, #workers, 2 do
    if cjson.decode(workers[i + 1]).seen_at > silent_since then table.insert(live, workers[i]) end
  end
end
if found <= wanted and #live == 0 then
  local migrations = {%s}
  for format = found + 1, wanted do migrations[format]() end
  redis.call('SET', KEYS[1], wanted)
end
return {found, unpack(live)}
"""


class WrongState(ContractError):
    """The state in Redis is not for this release, or not yet."""


def check() -> None:
    """Take the state over if it is older. Raises WrongState if it is newer, or while workers of the old format live."""
    try:
        found, *live = asyncio.run(_taken_over())
    except UNAVAILABLE as error:  # a process must start without Redis, too
        log.warning("the format of the state is not known: Redis does not answer", error=str(error))
        return
    if found > FORMAT:
        raise WrongState(
            f"Redis holds state of format {found}, this release knows {FORMAT}: a newer release was here. "
            "Deploy that one or a later one; nothing was changed."
        )
    if live:
        names = ", ".join(name if isinstance(name, str) else name.decode() for name in live)
        raise WrongState(
            f"Redis holds state of format {found}, this release wants {FORMAT}, and workers of the old release live: "
            f"{names}. Stop all of them; {3 * settings().renewal:g} s after their last sign of life this one starts."
        )
    if found < FORMAT:
        log.info("state taken over", old_format=found, new_format=FORMAT)


async def _taken_over() -> list[Any]:
    """The format that was found, then the workers that stand against a change of it."""
    migrations = "".join(f"[{number}] = function()\n{code}\nend," for number, code in MIGRATIONS.items())
    client: Any = connect()
    answer = client.eval(TAKE_OVER % migrations, 1, KEY, FORMAT, 3 * settings().renewal)
    try:
        return await answer if isawaitable(answer) else answer  # the client of an asyncio stack is asynchronous
    finally:
        if isawaitable(closing := client.connection_pool.disconnect()):
            await closing
