"""Redis behind Sentinel: its master dies in the middle of work, a replica takes over, and jobs go on."""

from .installed import Installed
from .processes import free_ports, until
from .service import Service
from .valkey import ask, start_node, start_sentinel


def test_jobs_go_on_when_the_master_dies(installed: Installed) -> None:
    sentinel, master, replica = free_ports(3)
    url = f"sentinel://127.0.0.1:{sentinel}/0"
    service = Service(installed, {"REDIS_URL": url, "SENTINEL_MASTER": "jobs"})
    try:
        first = start_node(service, master)
        start_node(service, replica, "--replicaof", f"127.0.0.1 {master}")
        assert start_sentinel(service, sentinel, master) == url
        until(lambda: f"127.0.0.1:{replica}" in ask(service, "SENTINEL", "REPLICAS", "jobs", port=sentinel), 20)
        until(lambda: "b'connected'" in ask(service, "ROLE", port=replica), 20, "the replica follows")
        service.start_gateway()
        service.start_api()
        for _ in range(2):
            service.start_worker()
        service.wait_for_workers(2)

        keys = [f"order-{number}" for number in range(60)]
        jobs = [service.submit("effect", {"key": key, "seconds": 0.3}) for key in keys]
        until(lambda: len(service.charges()) >= 10, 30, "10 charges")
        first.kill_group()
        until(lambda: service.http.get("/api/v1/queues").status_code == 503, 10, "the outage is told")
        until(lambda: service.http.get("/api/v1/queues").status_code == 200, 30, "the API has found the new master")
        for job in jobs:
            service.wait(job, within=60)
        assert sorted(charge["order_id"] for charge in service.charges()) == sorted(keys)
        service.wait(service.submit("effect", {"key": "one more"}))
        assert ask(service, "ROLE", port=replica).startswith("[b'master'")
        assert service.health()["ok"]
    finally:
        service.close()
