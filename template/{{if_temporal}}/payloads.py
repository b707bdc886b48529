"""What travels through Temporal: JSON, encrypted if PAYLOAD_KEYS is set, and large values kept elsewhere.

The server keeps every argument, result and progress in its histories: readable in its database, and over 2 MB not at
all (the workflow is ended or stuck). Here a value becomes JSON by pydantic, then AES-GCM, then, from
`inline_result_max` bytes on, an object in RESULTS_URL of which the history holds a reference. Never encrypted are
workflow ids (so idempotency keys), names, search attributes, headers, error types, and reasons for terminating.
"""

import asyncio
import base64
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr
from pydantic_core import from_json
from temporalio import activity, converter, workflow
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import StorageDriverClaim as Claim
from temporalio.exceptions import ApplicationError

from .documents import encode
from .large_results import LargeResults, open_large_results
from .settings import settings

ENCRYPTED = b"binary/encrypted"
DRIVER = "large-results"  # histories record it: under another name nobody could read what is stored
PREFIX = "payload."  # and the SHA-256: a task tried again writes no second object, unless it is encrypted anew
TIMEOUT = 30.0  # seconds for one large payload; a frozen store must not hold a worker's slot for ever
NOT_FINITE = re.compile(rb"NaN|Infinity")  # perhaps only in a text
MARGIN = 3600.0  # seconds; arguments are stored before the server starts the workflow, and clocks differ


class PayloadError(RuntimeError):
    """A payload cannot be read or stored. Temporal tries again, so jobs go on once the cause named here is gone."""


class PayloadGone(PayloadError):
    """The object that a history refers to is not in RESULTS_URL."""


class PayloadStoreUnavailable(PayloadError):
    """RESULTS_URL does not answer, or refuses; the API's callers get 503."""


@cache
def large_results() -> LargeResults:
    """Where this process keeps large payloads; it blocks, so call it in a thread."""
    return open_large_results(settings().results_url)


def written_with() -> str:
    """The name of the key that encrypts; empty if nothing does."""
    return next((key.get_secret_value().partition(":")[0] for key in settings().payload_keys), "")


@cache
def data_converter() -> converter.DataConverter:
    """That of every client and worker: one without it reads nothing large or encrypted."""
    keys = settings().payload_keys
    # External storage is experimental in temporalio 1.35: only this function and LargePayloads know of it.
    large = converter.ExternalStorage(drivers=[LargePayloads()], payload_size_threshold=settings().inline_result_max)
    coded = replace(pydantic_data_converter, payload_converter_class=JsonConverter, payload_codec=Encryption(keys))
    plain, hidden = converter.DefaultFailureConverter, converter.DefaultFailureConverterWithEncodedAttributes
    return replace(coded, failure_converter_class=hidden if keys else plain, external_storage=large)


class JsonConverter(PydanticPayloadConverter):
    """A value that is not JSON fails permanently and shows where; else an activity is run forever to return it.

    Nor are NaN and the infinities, which pydantic would write as such and most readers refuse.
    """

    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        """Raises ApplicationError, non-retryable."""
        try:
            payloads = super().to_payloads(values)
            for payload in payloads:
                _check_numbers(payload)
        except ValueError as error:  # of which all errors of encoding are
            inside = workflow.info().workflow_type if workflow.in_workflow() else "client"
            inside = activity.info().activity_type if activity.in_activity() else inside
            text = f"{inside}: {', '.join(type(value).__name__ for value in values)} is not JSON: {error}"
            raise ApplicationError(text, type=type(error).__name__, non_retryable=True) from None
        return payloads


def is_json(payload: Payload) -> bool:
    """Whether it can be a result: bytes and messages of protobuf cannot."""
    return payload.metadata["encoding"].startswith((b"json/", b"binary/null"))


def _check_numbers(payload: Payload) -> None:
    if payload.metadata.get("encoding") == b"json/plain" and NOT_FINITE.search(payload.data):
        try:
            from_json(payload.data, allow_inf_nan=False)
        except ValueError:
            raise ValueError("it holds NaN or an infinity") from None


def as_json(value: object) -> Payload:
    """The result of a job, which is always JSON: bytes would travel as they are, and no caller could read them.

    Raises NotJsonError.
    """
    return Payload(metadata={"encoding": b"json/plain"}, data=encode(value))


class Encryption(converter.PayloadCodec):
    """AES-256-GCM: the first key encrypts, any decrypts. Rotate: add the new one last everywhere, then move it first.

    What was written before encryption was turned on stays readable; a key goes when no history names it any more.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        pairs = (key.get_secret_value().split(":", 1) for key in keys)
        self._keys = {name: AESGCM(base64.b64decode(secret)) for name, secret in pairs}

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypted; as they are, if there is no key."""
        for name, key in self._keys.items():
            return [_encrypt(name, key, payload) for payload in payloads]
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises PayloadError if the key is unknown or the data was changed."""
        return [self._decrypt(p) if p.metadata.get("encoding") == ENCRYPTED else p for p in payloads]

    def _decrypt(self, payload: Payload) -> Payload:
        name = payload.metadata["encryption-key-id"].decode("utf-8", "replace")
        if (key := self._keys.get(name)) is None:
            raise PayloadError(f"a payload is encrypted with the key {name!r}: add it to PAYLOAD_KEYS of this process")
        try:
            return Payload.FromString(key.decrypt(payload.data[:12], payload.data[12:], _bound(name)))
        except (InvalidTag, ValueError):
            raise PayloadError(f"a payload was changed, or PAYLOAD_KEYS has another key named {name!r} now") from None


def _encrypt(name: str, key: AESGCM, payload: Payload) -> Payload:
    nonce = os.urandom(12)
    data = nonce + key.encrypt(nonce, payload.SerializeToString(), _bound(name))
    return Payload(metadata={"encoding": ENCRYPTED, "encryption-key-id": name.encode()}, data=data)


def _bound(name: str) -> bytes:
    return ENCRYPTED + b":" + name.encode()


class LargePayloads(converter.StorageDriver):
    """Payloads, already encrypted, in RESULTS_URL, which must be the same for every process of the service."""

    def name(self) -> str:
        """What histories record."""
        return DRIVER

    async def store(self, context: object, payloads: Sequence[Payload]) -> list[Claim]:
        """Raises PayloadStoreUnavailable."""
        return [Claim({"id": await _in_thread(_store, payload)}) for payload in payloads]

    async def retrieve(self, context: object, claims: Sequence[Claim]) -> list[Payload]:
        """Raises PayloadError: a non-retryable ApplicationError would end a workflow here, with nothing compensated."""
        return [await _in_thread(_retrieve, claim.claim_data["id"]) for claim in claims]


async def _in_thread(call: Callable[[Any], Any], argument: object) -> Any:
    try:
        async with asyncio.timeout(TIMEOUT):
            return await asyncio.to_thread(call, argument)
    except PayloadError:
        raise
    except Exception as error:
        why = str(error).strip().partition("\n")[0] or f"no answer in {TIMEOUT:g} s"
        raise PayloadStoreUnavailable(f"RESULTS_URL: {type(error).__name__}: {why}") from None


def _store(payload: Payload) -> str:
    data = payload.SerializeToString(deterministic=True)
    name = PREFIX + hashlib.sha256(data).hexdigest()
    large_results().put(name, data)
    return name


def _retrieve(name: str) -> Payload:
    try:
        data = b"".join(large_results().chunks(name))
    except FileNotFoundError:
        why = "it was deleted, or RESULTS_URL of this process is not that of the one that stored it"
        raise PayloadGone(f"{name} is not in RESULTS_URL: {why}") from None
    if PREFIX + hashlib.sha256(data).hexdigest() != name:
        raise PayloadError(f"{name} in RESULTS_URL was changed since it was stored")
    return Payload.FromString(data)


def sweep(oldest_open: float | None) -> int:
    """Delete objects older than `record_ttl`, but none written since the oldest open workflow started; how many.

    `oldest_open`: when its first run started (seconds since the epoch), None if none is open. It blocks. The
    namespace's retention must not exceed `record_ttl`: histories of closed workflows would refer to nothing.
    """
    age = max(float(settings().record_ttl), time.time() - oldest_open if oldest_open is not None else 0.0)
    return large_results().delete_older_than(age + MARGIN)
