"""A person approves or refuses what a workflow waits for, and it is on record who that was.

With a token for all, whoever may submit an order could approve it too.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from ..contract import InvalidPayload
from ..engine import promptly
from ..ops import approvals
from ..ops.approvals import Approval
from ..runtime import Decision
from ..settings import settings
from .access import JsonBody, matching
from .jobs import GUARDED, PREFIX, JobId
from .problems import documented

router = APIRouter(prefix=PREFIX, tags=["approvals"], dependencies=GUARDED, responses=documented(401, 403, 422, 503))


class Verdict(BaseModel):
    """What was decided; by whom, the token tells."""

    model_config = ConfigDict(extra="forbid")

    approved: StrictBool
    comment: str = Field("", max_length=2_000)


VERDICT = {"requestBody": {"required": True, "content": {"application/json": {"schema": Verdict.model_json_schema()}}}}


async def read_verdict(body: JsonBody) -> Verdict:
    """The body; raises InvalidPayload."""
    try:
        return Verdict.model_validate(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        text = 'a decision is {"approved": true or false, "comment": text}'
        raise InvalidPayload(text, [dict(entry) for entry in errors]) from None


async def approver(request: Request) -> str:
    """Who calls, by the name before the token in APPROVER_TOKENS; without any of these every caller may decide."""
    names = {token.encode(): name for name, token in settings().approvers.items()}
    given = request.headers.get("authorization", "").partition(" ")[2].strip()
    token = matching(given.encode("latin-1"), [*names])
    if names and token is None:
        raise HTTPException(403, "This token may not decide: send one of APPROVER_TOKENS.")
    return names[token] if token else "a caller of the API"


@router.get("/approvals", summary="Jobs that wait for a decision", response_model_exclude={"__all__": {"payload"}})
async def waiting(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Approval]:
    """The longest waiting first, without payload."""
    return await promptly(approvals.listed(limit))


@router.get("/approvals/{job_id}", summary="One of them whole", responses=documented(404, 409))
async def approval(job_id: JobId) -> Approval:
    """With its payload; 409 if it waits for no decision (any more)."""
    return await promptly(approvals.shown(job_id))


@router.post(
    "/jobs/{job_id}/decision",
    summary="Approve or refuse",
    status_code=204,
    responses=documented(400, 404, 409, 413),
    openapi_extra=VERDICT,
)
async def decide(
    job_id: JobId, by: Annotated[str, Depends(approver)], verdict: Annotated[Verdict, Depends(read_verdict)]
) -> None:
    """Of several at the same moment one answers 204, the others 409; 503 if no worker is there to take it."""
    await promptly(approvals.decide(job_id, Decision(by=by, approved=verdict.approved, comment=verdict.comment)))
