"""Large results live in an object store and only a reference travels; megabytes in the broker would crowd the queues.

`RESULTS_URL` says where: `file://var/results` (relative) or `file:///srv/results`, `s3://bucket/prefix`,
`gs://bucket/prefix`, `az://container/prefix`. Credentials come from the standard environment (`AWS_*`, `GOOGLE_*`,
`AZURE_STORAGE_*`) or the machine's identity.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

FOLDER = "job-results"  # cleaning up must never reach the bucket's other objects
CHUNK = 1 << 20  # bytes


class LargeResultsUnavailable(RuntimeError):
    """The store cannot be opened, or does not answer; the text says why and what to do."""


class LargeResults:
    """One JSON document per job id.

    Each process opens the store at its first use, and a process that forks later must never use it: obstore's threads
    do not survive a fork, so the child would hang. It gets LargeResultsUnavailable instead.
    """

    _opened_by: ClassVar[int | None] = None

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def _store(self) -> ObjectStore:
        LargeResults._opened_by = LargeResults._opened_by or os.getpid()
        if LargeResults._opened_by != os.getpid():
            raise LargeResultsUnavailable(
                "large results were used in this process's parent: use them after the fork only"
            )
        return self._opened

    @cached_property
    def _opened(self) -> ObjectStore:
        scheme, _, path = self._url.partition("://")
        try:
            if scheme == "file":
                return LocalStore(Path(path).resolve(), mkdir=True)
            return from_url(self._url)
        except (BaseError, OSError, ValueError) as error:
            what = f"RESULTS_URL={self._url}: {str(error).partition(chr(10))[0]}"
            what = re.sub(r"//[^/@\s]*@", "//***@", what)
            raise LargeResultsUnavailable(
                f"cannot open {what}. Use file://folder, s3://bucket/prefix, gs://bucket/prefix "
                "or az://container/prefix; credentials come from AWS_*, GOOGLE_* or AZURE_STORAGE_* variables."
            ) from None  # the cause may quote a password

    def put(self, job_id: str, data: bytes) -> None:
        """Keep the result whole or not at all; a re-run overwrites."""
        obstore.put(self._store, _path(job_id), data)

    def size(self, job_id: str) -> int | None:
        """Bytes, or None if there is no such result (any more)."""
        try:
            return obstore.head(self._store, _path(job_id))["size"]
        except FileNotFoundError:
            return None
        except BaseError as error:
            why = str(error).strip().partition("\n")[0]
            raise LargeResultsUnavailable(f"large results cannot be read ({why}); try again later") from error

    def chunks(self, job_id: str) -> Iterator[bytes]:
        """The result in pieces of about 1 MiB. Raises FileNotFoundError if it is gone."""
        for chunk in obstore.get(self._store, _path(job_id)).stream(min_chunk_size=CHUNK):
            yield bytes(chunk)

    def url(self, job_id: str, seconds: int) -> str | None:
        """A signed link that works for `seconds`; None where the store or its credentials cannot sign."""
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            return None
        with suppress(BaseError):
            return obstore.sign(self._store, "GET", _path(job_id), timedelta(seconds=seconds))
        return None

    def delete(self, job_id: str) -> None:
        """Forget a result; one that is gone already is fine."""
        with suppress(FileNotFoundError):
            obstore.delete(self._store, _path(job_id))

    def delete_older_than(self, seconds: float) -> int:
        """Forget all results written longer ago; how many they were."""
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        deleted = 0
        for batch in obstore.list(self._store, FOLDER, chunk_size=1000):
            old = [item["path"] for item in batch if item["last_modified"] < before]
            if old:
                obstore.delete(self._store, old)
            deleted += len(old)
        return deleted


def open_large_results(url: str) -> LargeResults:
    """The store behind `RESULTS_URL`; it is opened at its first use."""
    return LargeResults(url)


def _path(job_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}", job_id):
        job_id = "sha256-" + hashlib.sha256(job_id.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{FOLDER}/{job_id}.json"
