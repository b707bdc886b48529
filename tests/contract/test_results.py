"""Small results are answered at once, large ones are kept by reference and streamed, and both end with the job."""

import json
from pathlib import Path

import pytest

from .installed import Installed
from .processes import until
from .service import Service, running


def test_a_small_result_is_its_json(service: Service) -> None:
    job = service.submit("big", {"size": 1000})
    status = service.wait(job)
    answer = service.http.get(f"/api/v1/jobs/{job}/result")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == "x" * 1000
    assert status["result_size"] == 1002 == len(answer.content)
    assert json.loads(service.cli("result", job)) == answer.json()


def test_a_job_without_a_result_answers_null(service: Service) -> None:
    job = service.submit("noop")
    service.wait(job)
    assert service.result(job) is None


def test_a_large_result_stays_out_of_the_broker(service: Service) -> None:
    before = bytes_in(service.folder / "var"), bytes_in(service.folder / "broker")
    service.wait(service.submit("big", {"size": 3_000_000}))
    kept_outside, kept_in_broker = bytes_in(service.folder / "var"), bytes_in(service.folder / "broker")
    assert kept_outside - before[0] >= 3_000_000
    assert kept_in_broker - before[1] < 1_000_000, "its append-only file holds a reference"


@pytest.mark.parametrize("size", [65_534, 65_535, 5_000_000], ids=["largest inline", "smallest by reference", "5 MB"])
def test_a_large_result_comes_back_whole(service: Service, size: int) -> None:
    job = service.submit("big", {"size": size})
    assert service.wait(job)["result_size"] == size + 2
    with service.http.stream("GET", f"/api/v1/jobs/{job}/result", follow_redirects=True) as answer:
        chunks = list(answer.iter_raw())
    assert answer.status_code == 200
    assert json.loads(b"".join(chunks)) == "x" * size
    assert json.loads(service.cli("result", job)) == "x" * size


def test_a_result_that_is_not_there_is_told_apart(service: Service) -> None:
    unfinished = service.submit("noop", delay=600)
    assert service.http.get(f"/api/v1/jobs/{unfinished}/result").status_code == 409
    failed = service.submit("permanent", {"label": "no result"})
    service.wait(failed, "failed")
    answer = service.http.get(f"/api/v1/jobs/{failed}/result")
    assert answer.status_code == 409
    assert "card expired" in answer.json()["detail"]
    service.cli("result", unfinished, code=1)
    service.cli("result", failed, code=1)
    service.http.delete(f"/api/v1/jobs/{unfinished}")


def test_a_result_expires_with_its_time(installed: Installed) -> None:
    with running(installed, result_ttl=3) as service:
        jobs = [service.submit("big", {"size": size}) for size in (10, 100_000)]
        for job in jobs:
            service.wait(job)
            assert service.http.get(f"/api/v1/jobs/{job}/result").status_code == 200
        for job in jobs:
            until(lambda job=job: service.http.get(f"/api/v1/jobs/{job}/result").status_code == 410, 10)


def bytes_in(folder: Path) -> int:
    """The size of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
