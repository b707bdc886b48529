"""Celery's own chain, group and chord, with partial failures that the fan-in sees.

A failed part of a chord otherwise means that the fan-in never runs. Parts declared with `@job(outcome=True)` arrive at
the fan-in as `Outcome`s, failed ones too; each failed part is a dead letter besides. `.get()` in a job deadlocks a busy pool:
let the fan-in, a callback (`link`) or an error callback (`on_error`) carry on instead.
"""

from typing import Generic, TypeVar

from celery import chain, chord, group
from pydantic import BaseModel

T = TypeVar("T")

__all__ = ["Outcome", "chain", "chord", "group"]


class Outcome(BaseModel, Generic[T]):
    """What became of one part: its value, or the error and the id of the job that failed."""

    ok: bool
    value: T | None = None
    error: str | None = None
    job_id: str | None = None
