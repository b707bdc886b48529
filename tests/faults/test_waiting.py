"""However many jobs wait, they wake in turn, and the other jobs of their queue do not notice."""

import ast
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running
from ..contract.valkey import ask

MANY = pytest.mark.parametrize(
    "count", [pytest.param(100, id="100"), pytest.param(1000, id="1000", marks=pytest.mark.thorough)]
)
WINDOW = 8  # seconds in which wake-ups are counted
RATE = 2  # tokens a second
SAMPLES = 11  # of how long a job waits for its start


@pytest.fixture
def waiting(installed: Installed) -> Iterator[Service]:
    """A service of its own, which nobody else's waiters keep busy."""
    with running(installed) as service:
        yield service


def name() -> str:
    return f"b{uuid4().hex[:8]}"


def submit_many(service: Service, job: str, payload: dict[str, object], count: int) -> list[str]:
    return [service.submit(job, payload) for _ in range(count)]


def times(service: Service, label: str) -> list[float]:
    return sorted(effect["at"] for effect in service.effects(label=label))


def until_all_wait(service: Service, last: str) -> None:
    """Until each waiter, up to the last, has looked, and those that had to look again meanwhile have done so, too."""
    service.wait(last, "scheduled", within=120)
    until(lambda: service.queue("default")["waiting"] == 0, 120, lambda: service.queue("default"))


def start_delays(service: Service) -> list[float]:
    """Seconds from the submission of a job to its start, one job after the other."""
    found = []
    for _ in range(SAMPLES):
        label, submitted = name(), time.time()
        service.submit("mark", {"label": label})
        [effect] = service.told(label)
        found.append(effect["at"] - submitted)
    return found


def scripts(service: Service) -> int:
    """The script calls that Redis has answered: some for each delivery that a worker looks at."""
    stats = ast.literal_eval(ask(service, "INFO", "commandstats"))
    return sum(int(stats.get(f"cmdstat_{command}", {}).get("calls", 0)) for command in ("eval", "evalsha"))


def assert_as_fast(idle: Sequence[float], busy: Sequence[float]) -> None:
    assert statistics.median(busy) <= statistics.median(idle) + 0.05, (sorted(idle), sorted(busy))


def assert_within(taken: Sequence[float], rate: float, burst: int, late: float = 0.35) -> None:
    """No more than the bucket gives, in each window; `late`: seconds that the way from token to report may take."""
    for start in range(len(taken)):
        for end in range(start, len(taken)):
            allowed = burst + 1 + (taken[end] - taken[start] + late) * rate
            assert end - start + 1 <= allowed, (start, end, [at - taken[0] for at in taken])


@MANY
def test_waiters_for_a_rate_limit_wake_as_often_as_there_are_tokens(waiting: Service, count: int) -> None:
    idle, bucket = start_delays(waiting), name()
    *_, last = submit_many(waiting, "metered", {"bucket": bucket, "rate": RATE}, count)
    waiting.wait(last, "scheduled", within=120)  # so has each before it; a queue that never empties shows below
    before, began = waiting.metric("jobs_started_total", job="metered"), time.monotonic()
    busy = start_delays(waiting)
    time.sleep(max(0, began + WINDOW - time.monotonic()))
    woken = waiting.metric("jobs_started_total", job="metered") - before
    lasted = time.monotonic() - began
    passed = [at for at in times(waiting, bucket) if at > time.time() - lasted]
    print(f"{count} waiters: {woken / lasted:.1f} wake-ups and {len(passed) / lasted:.1f} tokens a second,")
    print(f"another job starts after {statistics.median(busy):.3f} s, without them {statistics.median(idle):.3f} s")
    assert woken / lasted <= 3 * RATE
    assert len(passed) / lasted >= 0.7 * RATE
    assert_as_fast(idle, busy)
    assert_within(times(waiting, bucket), RATE, 1)
    log = waiting.workers[0].log.read_text(encoding="utf-8")
    assert "job succeeded" in log
    assert "snoozed" not in log, "a line for each wake-up is worth DEBUG"


@MANY
@pytest.mark.parametrize(
    ("job", "payload"), [("alone", "label"), pytest.param("locked", "name", marks=pytest.mark.thorough)]
)
def test_waiters_for_a_lock_look_in_turn(waiting: Service, job: str, payload: str, count: int) -> None:
    idle, label = start_delays(waiting), name()
    waiting.submit(job, {payload: label, "seconds": 500})
    waiting.told(f"start {label}")
    *_, last = submit_many(waiting, job, {payload: label, "seconds": 0}, count)
    until_all_wait(waiting, last)
    began, before = time.monotonic(), scripts(waiting)
    time.sleep(WINDOW)
    looks = (scripts(waiting) - before) / (time.monotonic() - began)
    busy = start_delays(waiting)
    print(f"{count} waiters of {job}: {looks:.0f} script calls a second,")
    print(f"another job starts after {statistics.median(busy):.3f} s, without them {statistics.median(idle):.3f} s")
    assert looks <= 90
    assert_as_fast(idle, busy)


@pytest.mark.thorough
def test_a_job_that_waits_for_a_lock_gets_it_soon_after_the_others(service: Service) -> None:
    label = name()
    jobs = submit_many(service, "locked", {"name": label, "seconds": 0.1}, 10)
    for job in jobs:
        assert service.wait(job)["attempts"] == 1
    steps = [effect["label"].partition(" ")[0] for effect in service.effects() if effect["label"].endswith(f" {label}")]
    assert steps == ["start", "end"] * 10


@pytest.mark.thorough
def test_a_burst_passes_at_once_and_the_rest_at_the_rate(service: Service) -> None:
    bucket = name()
    jobs = submit_many(service, "metered", {"bucket": bucket, "rate": 4, "burst": 5}, 13)
    for job in jobs:
        assert service.wait(job)["attempts"] == 1
    taken = times(service, bucket)
    assert len(taken) == 13
    assert_within(taken, 4, 5)
    assert taken[-1] - taken[0] <= 8 / 4 + 2


@pytest.mark.parametrize("burst", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_a_run_that_acquires_several_times_gets_all_its_tokens(service: Service, burst: int) -> None:
    bucket = name()
    jobs = submit_many(service, "metered", {"bucket": bucket, "rate": 10, "burst": burst, "times": 3}, 3)
    for job in jobs:
        assert service.wait(job)["attempts"] == 1
    taken = times(service, bucket)
    assert len(taken) >= 9
    assert_within(taken, 10, burst + 2)


@pytest.mark.thorough
def test_a_run_that_acquires_from_two_buckets_gets_both(service: Service) -> None:
    first, second = name(), name()
    jobs = [
        *submit_many(service, "metered_by_two", {"first": first, "second": second, "rate": 10}, 5),
        *submit_many(service, "metered_by_two", {"first": second, "second": first, "rate": 10}, 5),
    ]
    for job in jobs:
        assert service.wait(job)["attempts"] == 1
    assert len(times(service, f"{first} {second}") + times(service, f"{second} {first}")) == 10


@pytest.mark.thorough
def test_a_retry_pays_again_and_spends_no_attempt_on_waiting(service: Service) -> None:
    bucket = name()
    jobs = submit_many(service, "metered_and_failing", {"bucket": bucket, "rate": 5, "failures": 2}, 3)
    for job in jobs:
        assert service.wait(job)["attempts"] == 3
    taken = times(service, bucket)
    assert len(taken) == 9
    assert_within(taken, 5, 1)


def test_the_slot_of_a_cancelled_waiter_goes_to_the_next(service: Service) -> None:
    bucket = name()
    payload: dict[str, object] = {"bucket": bucket, "rate": 0.5}
    first, *others = submit_many(service, "metered", payload, 12)
    service.wait(first)
    for job in others:
        service.wait(job, "scheduled")
        service.http.delete(f"/api/v1/jobs/{job}").raise_for_status()
        service.wait(job, "cancelled")
    service.wait(service.submit("metered", payload), within=9)  # the last slot was 22 seconds away
    service.wait(service.submit("metered", payload), within=9)


def test_waiters_of_a_killed_worker_pass_later_at_the_rate(installed: Installed) -> None:
    bucket = name()
    with running(installed) as service:
        jobs = submit_many(service, "metered", {"bucket": bucket, "rate": 4}, 16)
        service.wait(jobs[-1], "scheduled")
        service.workers[0].kill_group()
        due = service.status(jobs[-1])["due_at"]
        until(lambda: time.time() > due, 10, "the last token is there")
        service.start_worker()
        for job in jobs:
            assert service.wait(job, within=60)["attempts"] == 1
        taken = times(service, bucket)
        assert len(taken) == 16
        assert_within(taken, 4, 1)


OUTSIDE = """
import asyncio, inspect, time
from {package}.runtime import Snooze, TokenBucket
bucket = TokenBucket("{bucket}", rate=1, burst=2)

async def call(method):
    answer = method()
    return await answer if inspect.isawaitable(answer) else answer

async def main():
    assert await call(bucket.try_acquire) == 0.0
    assert await call(bucket.try_acquire) == 0.0
    for _ in range(5):  # asking again costs nothing
        wait = await call(bucket.try_acquire)
        assert 0 < wait <= 1, wait
    try:
        await call(bucket.acquire)
    except Snooze as snooze:
        assert 0 < snooze.delay <= 1.01, snooze.delay
    await asyncio.sleep(wait + 0.02)
    assert await call(bucket.try_acquire) == 0.0

asyncio.run(main())
"""


def test_outside_of_a_job_nothing_is_reserved(service: Service) -> None:
    code = OUTSIDE.format(package=service.installed.package, bucket=name())
    command = [service.installed.python, "-c", code]
    done = subprocess.run(command, cwd=service.folder, env=service.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_polls_that_began_together_do_not_ask_together(service: Service) -> None:
    jobs = submit_many(service, "polls", {"seconds": 60}, 20)
    due = [service.wait(job, "scheduled")["due_at"] for job in jobs]
    assert max(due) - min(due) > 2, sorted(due)
    for job in jobs:
        service.http.delete(f"/api/v1/jobs/{job}").raise_for_status()


def test_jobs_that_were_refused_together_do_not_come_back_together(service: Service) -> None:
    jobs = submit_many(service, "refused", {"retry_after": 30}, 20)
    due = [service.wait(job, "retrying")["due_at"] for job in jobs]
    assert max(due) - min(due) > 2, sorted(due)
    assert all(service.status(job)["due_at"] - service.status(job)["submitted_at"] >= 30 for job in jobs)
    for job in jobs:
        service.http.delete(f"/api/v1/jobs/{job}").raise_for_status()
