"""A queue's depth counts everything in it, and its age is that of the job that has waited longest."""

import time

from .installed import Installed
from .processes import until
from .service import running


def test_depth_counts_every_priority_what_is_delayed_and_what_is_in_flight(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        first = time.time()
        waiting = [service.submit("mark", {"label": "w", "seconds": 3}, priority=p) for p in (0, 3, 6, 9) for _ in "ab"]
        delayed = [service.submit("mark", {"label": "d"}, delay=delay) for delay in (25, 3600)]
        service.submit("noop", queue="bulk")
        queue = service.queue("default")
        assert {name: queue[name] for name in ("depth", "waiting", "delayed", "in_flight", "workers")} == {
            "depth": 10,
            "waiting": 8,
            "delayed": 2,
            "in_flight": 0,
            "workers": 0,
        }
        assert service.queue("bulk")["depth"] == 1
        assert service.queue("critical")["depth"] == 0
        assert service.queue("critical")["oldest_age"] == 0

        until(lambda: time.time() - first > 2, 5)
        age = service.queue("default")["oldest_age"]
        assert 1.9 < age <= time.time() - first + 0.1
        assert service.metric("jobs_queue_depth", queue="default") == 10
        assert service.cli_json("queues")[0].keys() == queue.keys()

        service.start_worker()
        service.told("w")
        busy = until(lambda: queue if (queue := service.queue("default"))["in_flight"] else None, 10)
        assert busy["depth"] == busy["waiting"] + busy["delayed"] + busy["in_flight"] <= 10
        assert busy["delayed"] == 2, "delayed jobs stay delayed, though a worker may know them"
        for job in (*waiting, delayed[0]):
            service.wait(job, within=60)
        queue = until(lambda: queue if (queue := service.queue("default"))["depth"] == 1 else None, 5)
        assert (queue["waiting"], queue["delayed"], queue["in_flight"]) == (0, 1, 0)
        assert queue["oldest_age"] == 0, "what is not due does not age"
