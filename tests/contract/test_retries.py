"""What may pass is tried again, what will not is not, and waiting is no attempt."""

from itertools import pairwise
from uuid import uuid4

from .service import Service


def test_a_transient_error_is_retried_until_it_passes(service: Service) -> None:
    label = str(uuid4())
    job = service.submit("flaky", {"label": label, "times": 3})
    assert service.wait(job)["attempts"] == 4
    assert service.result(job) == 4
    assert [told["attempt"] for told in service.effects(label=label)] == [1, 2, 3, 4]


def test_attempts_end_and_the_waits_between_them_grow_within_their_bounds(service: Service) -> None:
    label = str(uuid4())
    job = service.submit("flaky", {"label": label, "times": 99})
    status = service.wait(job, "failed")
    assert status["attempts"] == 4
    assert status["dead_letter"]
    starts = [told["at"] for told in service.effects(label=label)]
    assert len(starts) == 4
    for number, (before, after) in enumerate(pairwise(starts)):
        assert after - before <= 0.2 * 2**number + 1.0, "full jitter: at most base · 2ⁿ, and a little for the way"


def test_the_jitter_is_full(service: Service) -> None:
    """Without it each of these would wait for 0.8 s before its fourth attempt."""
    labels = [str(uuid4()) for _ in range(16)]
    jobs = [service.submit("flaky", {"label": label, "times": 3}) for label in labels]
    for job in jobs:
        service.wait(job)
    waits = [last["at"] - third["at"] for _, _, third, last in (service.effects(label=label) for label in labels)]
    assert min(waits) < 0.7, waits


def test_a_permanent_error_is_never_retried(service: Service) -> None:
    label = str(uuid4())
    assert service.wait(service.submit("permanent", {"label": label}), "failed")["attempts"] == 1
    assert len(service.effects(label=label)) == 1


def test_an_unexpected_error_is_not_retried_unless_somebody_chose_so(service: Service) -> None:
    label = str(uuid4())
    status = service.wait(service.submit("unexpected", {"label": label}), "failed")
    assert status["attempts"] == 1
    assert "nobody thought of this" in status["error"]
    assert len(service.effects(label=label)) == 1


def test_retry_after_is_honoured(service: Service) -> None:
    label = str(uuid4())
    service.wait(service.submit("told_to_wait", {"label": label, "seconds": 2}))
    first, second = service.effects(label=label)
    assert 2 <= second["at"] - first["at"] <= 4


def test_a_snoozed_job_comes_back_without_spending_its_attempts(service: Service) -> None:
    label = str(uuid4())
    job = service.submit("snoozing", {"label": label, "times": 5})
    assert service.wait(job)["attempts"] == 1
    assert [told["attempt"] for told in service.effects(label=label)] == [1] * 6


def test_a_rate_limit_holds_for_all_workers_and_spends_no_attempts(service: Service) -> None:
    label = str(uuid4())
    jobs = [service.submit("limited", {"label": label}) for _ in range(12)]
    assert {service.wait(job)["attempts"] for job in jobs} == {1}
    times = sorted(told["at"] for told in service.effects(label=label))
    assert len(times) == 12
    for start in times:
        assert sum(start <= other < start + 1 for other in times) <= 6, "four, and the way to the gateway"


def test_a_singleton_waits_for_its_turn_and_spends_no_attempts(service: Service) -> None:
    label = str(uuid4())
    jobs = [service.submit("exclusive", {"label": label, "seconds": 0.3}) for _ in range(3)]
    assert {service.wait(job)["attempts"] for job in jobs} == {1}
    assert [told["step"] for told in service.effects(label=label)] == ["start", "end"] * 3


def test_a_singleton_that_skips_is_not_run_again(service: Service) -> None:
    label = str(uuid4())
    first = service.submit("exclusive_or_not", {"label": label, "seconds": 2})
    service.told(label)
    second = service.submit("exclusive_or_not", {"label": label, "seconds": 2})
    status = service.wait(second, "succeeded", "cancelled")
    assert not status["dead_letter"]
    service.wait(first)
    assert len(service.effects(label=label)) == 1
