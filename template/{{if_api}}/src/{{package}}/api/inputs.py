"""What an endpoint is handed: the engine, and the payload read up to a limit, so that none exhausts the memory."""

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from pydantic_core import from_json

from ..contract import Engine
from ..ops.engine import engine
from ..settings import settings


async def current_engine() -> Engine:
    """The process's engine; `async` so that FastAPI does not spend a thread on it."""
    return engine()


async def json_body(request: Request) -> Any:
    """The request's JSON document; an empty body is `{}`. Answers 413 above MAX_BODY bytes, 400 if it is not JSON."""
    limit = settings().max_body
    too_large = HTTPException(
        413, f"The body exceeds {limit} bytes (MAX_BODY). Store large input and pass a reference."
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large  # before the client has sent it all
    body = bytearray()
    async for chunk in request.stream():  # a chunked body declares no length
        body += chunk
        if len(body) > limit:
            raise too_large
    try:
        return from_json(bytes(body), allow_inf_nan=False) if body else {}
    except ValueError as error:
        raise HTTPException(400, f"The body is not JSON: {error}.") from None


CurrentEngine = Annotated[Engine, Depends(current_engine)]
JsonBody = Annotated[Any, Depends(json_body)]

JSON_BODY = {
    "requestBody": {
        "description": "The job's input; `GET /api/v1/jobs` shows the schema for each job.",
        "content": {"application/json": {"schema": {}}},
    }
}
"""For OpenAPI, which cannot see a body that a dependency reads."""
