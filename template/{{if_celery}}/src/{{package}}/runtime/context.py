"""What a job may know about itself while it runs."""

from dataclasses import dataclass

from celery import current_task


@dataclass(frozen=True, slots=True)
class JobContext:
    """`attempt` counts from 1; pass `idempotency_key` on to whatever you call, so that a second run has no second effect."""

    id: str
    name: str
    attempt: int
    queue: str
    idempotency_key: str | None
    trace_id: str
    root: str


def current_job() -> JobContext | None:
    """The job that runs in this process, None outside a worker."""
    task = current_task
    if not task or task.request.called_directly or task.request.is_eager:
        return None
    request = task.request
    envelope = (request.headers or {}).get("job") or {}
    return JobContext(
        id=request.id,
        name=task.name,
        attempt=request.retries + 1,
        queue=(request.delivery_info or {}).get("routing_key") or "",
        idempotency_key=envelope.get("key"),
        trace_id=envelope.get("trace_id", ""),
        root=request.root_id or request.id,
    )
