"""What every job engine answers, and its errors, so that the HTTP API and the command line are the same on every stack.

Times are seconds since the Unix epoch (UTC); durations are seconds; sizes are bytes.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

from .documents import NotJsonError, encode

State = Literal["queued", "scheduled", "running", "retrying", "succeeded", "failed", "cancelled"]
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)  # seconds
DURATION_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds


class ContractError(Exception):
    """An error a caller can act on; its text says what happened and what to do."""


class JobDeclarationError(ContractError):
    """A job, rule or schedule in jobs/ is declared in a way that would fail in production."""


class UnknownJob(ContractError):
    """No job type has this name, or no job has this id."""


class InvalidPayload(ContractError):
    """The payload does not fit the job's input model; `errors` holds one entry per field."""

    def __init__(self, message: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.errors = [dict(error) for error in errors]


class UnknownQueue(ContractError):
    """No such queue in queues.py."""


class IdempotencyConflict(ContractError):
    """The idempotency key was used before with another payload."""


class NotFinished(ContractError):
    """The job has no result yet."""


class JobFailed(ContractError):
    """The job ended without a result."""


class ResultExpired(ContractError):
    """The job succeeded, but its result was kept only for the configured time."""


class NotADeadLetter(ContractError):
    """No dead letter has this id."""


class UnknownSchedule(ContractError):
    """No schedule has this name."""


class BrokerUnavailable(ContractError):
    """The broker does not answer; nothing was submitted, try again later."""


class Submission(BaseModel):
    """What a submission led to."""

    id: str
    created: bool = Field(description="false when the idempotency key was used before: `id` is the first job")


class JobType(BaseModel):
    """A kind of job that can be submitted by name."""

    name: str
    queue: str
    description: str
    payload_schema: dict[str, Any]


class Progress(BaseModel):
    """How far a running job says it is."""

    stage: str = ""
    done: int | None = None
    total: int | None = None
    message: str = ""
    updated_at: float | None = None


class JobStatus(BaseModel):
    """One job as a caller sees it."""

    id: str
    name: str
    state: State
    queue: str
    priority: int = Field(description="0–9, 9 is the most urgent")
    attempts: int = Field(description="how often it was started")
    submitted_at: float | None = None
    due_at: float | None = Field(default=None, description="when a scheduled or retrying job becomes due")
    started_at: float | None = None
    finished_at: float | None = None
    progress: Progress = Progress()
    stalled: bool = Field(default=False, description="running, but without a sign of life from its worker")
    error: str | None = None
    dead_letter: bool = False
    idempotency_key: str | None = None
    replay_of: str | None = None
    replayed_as: str | None = None
    parent: str | None = Field(default=None, description="the job that submitted this one")
    root: str | None = Field(default=None, description="the first job of the workflow")
    result_size: int | None = None
    trace_id: str | None = None


class QueueStatus(BaseModel):
    """The backlog of one queue, delayed and unacknowledged jobs included."""

    name: str
    depth: int = Field(description="waiting + delayed + in_flight")
    waiting: int
    delayed: int = Field(description="not due yet")
    in_flight: int = Field(description="taken by a worker, not finished")
    oldest_age: float = Field(description="seconds the oldest due job has waited")
    workers: int = Field(description="live worker processes that read this queue")
    dead_letters: int = 0
    problem: str | None = Field(default=None, description="what is wrong with the queue in the broker, and what to do")


class DeadLetter(BaseModel):
    """A job that a person must look at."""

    id: str
    job: str
    queue: str
    reason: Literal["exhausted", "permanent", "unexpected", "timed out", "poison", "undecodable", "unknown job"]
    error: str
    traceback: str = ""
    attempts: int = 0
    payload: Any = None
    failed_at: float
    idempotency_key: str | None = None
    trace_id: str | None = None
    replayable: bool = True
    replayed_as: str | None = None

    @field_validator("payload", mode="before")
    @classmethod
    def _shown(cls, payload: Any) -> Any:
        """A foreign client's may hold what JSON cannot."""
        try:
            encode(payload)
        except NotJsonError:
            return ascii(payload)
        return payload


class ScheduleStatus(BaseModel):
    """One recurring job."""

    name: str
    job: str
    when: str
    queue: str
    last_run_at: float | None = None
    next_run_at: float | None = None
    runs: int = 0
    interval: float = Field(description="longest time between two firings")
    silent: bool = Field(default=False, description="it should have fired by now and did not")
    paused: bool = Field(default=False, description="it fires no more until it is resumed")
    problem: str | None = Field(default=None, description="why it cannot fire, until a person mends it")


class WorkerStatus(BaseModel):
    """One live worker process."""

    name: str
    queues: list[str]
    concurrency: int
    running: int
    seen_at: float


class Health(BaseModel):
    """Whether jobs flow; `reasons` says in words why not."""

    ok: bool
    broker: bool
    workers: list[WorkerStatus] = []
    reasons: list[str] = []


class Result(BaseModel):
    """A result: `chunks` streams the JSON document, or `url` says where to fetch it."""

    model_config = {"arbitrary_types_allowed": True}

    size: int
    media_type: str = "application/json"
    url: str | None = None
    chunks: AsyncIterator[bytes] | None = None
