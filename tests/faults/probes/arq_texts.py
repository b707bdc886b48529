"""Jobs that return, report and raise whatever text or number they are given."""

import json
import logging

from pydantic import BaseModel

from ..runtime import job, progress  # ty: ignore[import-not-found]
from .resources import Context  # ty: ignore[import-not-found]


class Measured(BaseModel):
    """Fields that may hold what JSON cannot."""

    number: float = 0
    anything: object = None


@job(queue="default", retry=None)
async def speaks(ctx: Context, document: str, how: str) -> object:
    """Return, report, log or raise the value of a document that need not be JSON: NaN and half an emoji, too."""
    value = json.loads(document)
    if how == "progress":
        await progress(stage=str(value), message=str(value))
    elif how == "error":
        raise ValueError(value)
    elif how == "log":
        logging.getLogger("speaks").error("%s", value)
    elif how == "model":
        return Measured(number=value if isinstance(value, float) else 0, anything=value)
    return value


@job(queue="default", retry=None)
async def takes(ctx: Context, number: float, measured: Measured) -> None:
    """Accept numbers as pydantic does: "nan" as well."""


@job(queue="default", retry=None, idempotency_key=lambda text: text)
async def keyed_by(ctx: Context, text: str) -> str:
    """Have any text as its key."""
    return text
