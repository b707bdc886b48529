"""Every error as an RFC 9457 problem document: a program can tell errors apart, a person reads what to do."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from ..contract import (
    BrokerUnavailable,
    ContractError,
    IdempotencyConflict,
    InvalidPayload,
    JobFailed,
    NotADeadLetter,
    NotFinished,
    ResultExpired,
    UnknownJob,
    UnknownQueue,
    UnknownSchedule,
)

PROBLEMS: dict[type[ContractError], tuple[int, str]] = {
    UnknownJob: (404, "Unknown job"),
    NotADeadLetter: (404, "Not a dead letter"),
    UnknownSchedule: (404, "Unknown schedule"),
    UnknownQueue: (422, "Unknown queue"),
    IdempotencyConflict: (409, "Idempotency conflict"),
    NotFinished: (409, "Not finished"),
    JobFailed: (409, "Job failed"),
    ResultExpired: (410, "Result expired"),
    BrokerUnavailable: (503, "Broker unavailable"),
}
RETRY_AFTER = "5"  # seconds


class FieldError(BaseModel):
    """One thing that is wrong with the input, and where."""

    loc: list[str | int] = Field(description="the way to the field, such as body, items, 0, quantity")
    msg: str
    type: str


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str = Field(
        "about:blank", description="urn:problem:not-finished and the like; about:blank for plain HTTP errors"
    )
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = Field(None, description="with status 422: each wrong field")


def problem(
    status: int,
    detail: str,
    *,
    title: str | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem response; without a title it is a plain HTTP error. `errors` are entries as pydantic makes them."""
    document = Problem(
        type=f"urn:problem:{title.lower().replace(' ', '-')}" if title else "about:blank",
        title=title or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=[FieldError.model_validate(error) for error in errors] or None,
    )
    content = document.model_dump(exclude_none=True)
    return JSONResponse(content, status, headers=headers, media_type="application/problem+json")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these statuses answer with a problem document."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


class DocumentedApp(FastAPI):
    """Its OpenAPI document knows the schema of a problem, which no endpoint returns."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
        document["components"]["schemas"].update(schemas["$defs"])
        return document


def install(app: FastAPI) -> None:
    """Turn every error of the application into a problem document."""

    @app.exception_handler(ContractError)
    async def contract_error(_: Request, error: ContractError) -> JSONResponse:
        known = (found for kind, found in PROBLEMS.items() if isinstance(error, kind))
        status, title = next(known, (409, "Refused"))
        headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
        return problem(status, str(error), title=title, headers=headers)

    @app.exception_handler(InvalidPayload)
    async def invalid_payload(_: Request, error: InvalidPayload) -> JSONResponse:
        errors = error.errors or [{"loc": (), "msg": str(error), "type": "invalid_payload"}]
        located = [{**entry, "loc": ("body", *entry["loc"])} for entry in errors]
        return problem(422, str(error), title="Invalid payload", errors=located)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "See errors for each wrong parameter.", title="Invalid request", errors=error.errors())

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, error.detail, headers=error.headers)

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "An error of this service, not of your request; its log has the details.")
