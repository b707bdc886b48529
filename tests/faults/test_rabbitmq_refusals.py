"""RabbitMQ refuses, at run time: a login, a message during an alarm, a delivery that is held for too long."""

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running
from .rabbitmq import control

ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "absolute", "1"), ("set_vm_memory_high_watermark", "0.4")),
    "disk": (("set_disk_free_limit", "999999GB"), ("set_disk_free_limit", "50MB")),
}
TAKE_BACK = (
    "application:set_env(rabbit, consumer_timeout, {timeout}), "
    "application:set_env(rabbit, channel_tick_interval, 1000)."
)


def submitted(service: Service, label: str, key: str | None = None) -> str:
    """The id of a job, once a submission is accepted."""
    return until(
        lambda: answer.json()["id"] if (answer := service.post("mark", {"label": label}, key=key)).is_success else "",
        60,
    )


def test_a_password_that_was_wrong_for_some_seconds_stops_no_worker(installed: Installed) -> None:
    with running(installed) as service:
        [worker] = service.workers
        control(service, "change_password", "guest", "another")
        control(service, "close_all_connections", "rotation")
        until(lambda: "does not let us in" in worker.log.read_text(), 40)
        assert service.post("noop").status_code == 503
        control(service, "change_password", "guest", "guest")
        service.wait(submitted(service, "after"), within=40)
        assert worker.returncode is None


def test_a_virtual_host_that_was_deleted_and_made_again_stops_no_worker(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        control(service, "add_vhost", "orders")
        control(service, "set_permissions", "-p", "orders", "guest", ".*", ".*", ".*")
        service.environment["RABBITMQ_URL"] += "orders"
        service.api.stop()
        service.start_api()
        worker = service.start_worker()
        service.wait(submitted(service, "before"), within=40)
        control(service, "delete_vhost", "orders")
        until(lambda: "does not let us in" in worker.log.read_text(), 40)
        control(service, "add_vhost", "orders")
        control(service, "set_permissions", "-p", "orders", "guest", ".*", ".*", ".*")
        service.wait(submitted(service, "after"), within=40)
        assert worker.returncode is None


@pytest.mark.thorough
def test_a_login_that_stays_refused_ends_the_worker_as_failed(installed: Installed) -> None:
    with running(installed) as service:
        [worker] = service.workers
        control(service, "change_password", "guest", "another")
        control(service, "close_all_connections", "rotation")
        assert worker.wait(120) == 1


def test_a_job_longer_than_the_brokers_own_consumer_timeout_ends_no_worker(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        control(service, "eval", TAKE_BACK.format(timeout=3000))  # each channel reads it when it is opened
        worker = service.start_worker()
        long = service.submit("mark", {"label": "long", "seconds": 15})
        urgent = service.submit("mark", {"label": "urgent", "seconds": 10}, queue="critical")
        until(lambda: "delivery acknowledgement" in worker.log.read_text(), 40)
        service.wait(service.submit("noop", queue="bulk"), within=40)
        for job, label in ((long, "long"), (urgent, "urgent")):
            assert service.wait(job, within=60)["attempts"] == 1
            assert len(service.effects(label=label)) == 1
        assert worker.returncode is None


@pytest.mark.parametrize("alarm", ["memory", pytest.param("disk", marks=pytest.mark.thorough)])
def test_what_is_refused_during_an_alarm_does_not_run_later_and_health_names_the_alarm(
    installed: Installed, alarm: str
) -> None:
    begin, end = ALARMS[alarm]
    with running(installed) as service:
        service.wait(service.submit("noop"))
        control(service, *begin)
        try:
            until(lambda: "alarm" in str(service.health()["reasons"]), 30, service.health)
            answers = {
                f"{kind} {number}": service.post("mark", {"label": f"{kind} {number}"}, key=key).status_code
                for number in range(6)
                for kind, key in (("bare", None), ("keyed", f"keyed {number}"))
            }
            assert 503 in answers.values()
            assert "alarm" in service.cli("doctor", code=1, within=30)
        finally:
            control(service, *end)
        until(lambda: service.health()["ok"], 40, service.health)
        for number in range(6):
            submitted(service, f"keyed {number}", key=f"keyed {number}")
        until(lambda: service.queue("default")["depth"] == 0, 40)
        for label, status in answers.items():
            expected = 1 if status == 202 or label.startswith("keyed") else 0
            assert len(service.effects(label=label)) == expected, label
