"""Ask often while there is something to hear, seldom while there is not; in one loop that survives restarts.

A job that submits its successor forks into two loops when it is redelivered. Here the poll is one job with one id that
snoozes: its message is in the broker while it waits, and a second copy of it is dropped. A schedule with a fixed `key`
starts it, and starts it again should it ever have ended.
"""

from dataclasses import dataclass
from typing import NoReturn

from .context import current_job
from .record import job_key, records
from .retry import Snooze


@dataclass(frozen=True, slots=True)
class AdaptivePoll:
    """`base` seconds after activity, doubling up to `cap` while idle."""

    base: float = 30.0
    cap: float = 300.0

    def again(self, *, active: bool) -> NoReturn:
        """End this run; the next one comes after the interval. Raises Snooze."""
        job = current_job()
        if job is None:
            raise RuntimeError("AdaptivePoll.again() is for running jobs")
        last = float(records().client.hget(job_key(job.id), "poll_interval") or self.base / 2)
        interval = self.base if active else min(self.cap, 2 * last)
        records().update(job.id, {"poll_interval": interval})
        raise Snooze(interval, f"next poll in {interval:g} s")
