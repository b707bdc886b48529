"""What is urgent overtakes what is not, across queues and inside one, and bulk is not starved for ever."""

from .installed import Installed
from .processes import until
from .service import running


def test_critical_jobs_overtake_a_bulk_backlog_on_one_worker(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        bulk = [service.submit("mark", {"label": "bulk", "seconds": 0.05}, queue="bulk") for _ in range(200)]
        service.start_worker()
        service.told("bulk", 10)
        started_before = len(service.effects(label="bulk"))
        critical = [service.submit("mark", {"label": "critical"}, queue="critical") for _ in range(5)]
        for job in critical:
            service.wait(job)
        for job in bulk[-3:]:
            service.wait(job, within=60)
        order = [told["label"] for told in sorted(service.effects(), key=lambda told: told["at"])]
        last = max(place for place, label in enumerate(order) if label == "critical")
        overtaken = len(order) - 1 - last
        assert len(order) == 205
        assert last - started_before <= 5 + 30, f"bulk jobs went on before the critical ones: {order}"
        assert overtaken >= 100


def test_in_one_queue_the_higher_number_starts_first(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        jobs = [
            service.submit("mark", {"label": f"priority {priority}", "seconds": 0.1}, priority=priority)
            for priority in (0, 5, 9)
            for _ in range(10)
        ]
        service.start_worker()
        for job in jobs:
            service.wait(job)
        starts = {p: [told["at"] for told in service.effects(label=f"priority {p}")] for p in (9, 5, 0)}
        assert [len(times) for times in starts.values()] == [10, 10, 10]
        tolerance = 0.09  # two pool processes may tell the gateway in the other order
        assert max(starts[9]) <= min(starts[5]) + tolerance
        assert max(starts[5]) <= min(starts[0]) + tolerance


def test_a_dedicated_worker_keeps_bulk_going_under_a_critical_flood(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        for _ in range(200):
            service.submit("mark", {"label": "critical", "seconds": 0.5}, queue="critical")
        bulk = [service.submit("mark", {"label": "bulk"}, queue="bulk") for _ in range(5)]
        service.start_worker("critical", "default")
        service.told("critical")
        assert service.effects(label="bulk") == [], "nobody reads bulk yet"
        service.start_worker("bulk")
        for job in bulk:
            service.wait(job)
        assert service.queue("critical")["waiting"] > 0
        assert service.effects(label="bulk")


def test_workers_serve_only_the_queues_they_are_told(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        job = service.submit("noop", queue="bulk")
        service.start_worker("critical")
        service.wait(service.submit("noop", queue="critical"))
        assert service.status(job)["state"] == "queued"
        until(lambda: service.queue("critical")["workers"] == 1, 10)
        assert service.queue("bulk")["workers"] == 0
