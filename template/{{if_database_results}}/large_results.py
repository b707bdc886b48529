"""Large results live in a database and only a reference travels; megabytes in the broker would crowd the queues.

`RESULTS_URL` says where: `sqlite:///var/results.db` (one machine) or `postgresql://user@host/name`; the two tables are
created if missing. Rows of 1 MiB let a result stream without ever being whole in memory.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    NullPool,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

CHUNK = 1 << 20  # bytes
UPSERT = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}

metadata = MetaData()
results = Table(
    "job_results",
    metadata,
    Column("job_id", String(200), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("stored_at", Float, nullable=False),  # seconds since the epoch
)
pieces = Table(
    "job_result_pieces",
    metadata,
    Column("job_id", ForeignKey(results.c.job_id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)


class LargeResultsUnavailable(RuntimeError):
    """The database cannot be opened, or does not answer; the text says why and what to do."""


class LargeResults:
    """One JSON document per job id; safe across forks, as no connection outlives a call."""

    def __init__(self, url: URL) -> None:
        self._url = url

    @cached_property
    def _engine(self) -> Engine:
        engine = create_engine(self._url, poolclass=NullPool)
        try:
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
                Path(self._url.database or "").resolve().parent.mkdir(parents=True, exist_ok=True)
            for table in metadata.sorted_tables:
                _create(engine, table)
        except (SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise LargeResultsUnavailable(
                f"cannot open RESULTS_URL={self._url.render_as_string()}: {reason}. Check that the database runs and "
                "that the user may log in and create tables."
            ) from error
        return engine

    def put(self, job_id: str, data: bytes) -> None:
        """Keep the result whole or not at all; a re-run overwrites."""
        job_id = _name(job_id)
        row = {"job_id": job_id, "size": len(data), "stored_at": time.time()}
        upsert = UPSERT[self._engine.dialect.name](results).values(row)
        with self._engine.begin() as connection:
            # The row comes first: its lock lets two runs of one job write one after the other.
            connection.execute(upsert.on_conflict_do_update(index_elements=[results.c.job_id], set_=row))
            connection.execute(delete(pieces).where(pieces.c.job_id == job_id))
            for number, start in enumerate(range(0, len(data), CHUNK)):
                piece = {"job_id": job_id, "number": number, "data": data[start : start + CHUNK]}
                connection.execute(insert(pieces), piece)

    def size(self, job_id: str) -> int | None:
        """Bytes, or None if there is no such result (any more)."""
        try:
            with self._engine.connect() as connection:
                return connection.scalar(select(results.c.size).where(results.c.job_id == _name(job_id)))
        except SQLAlchemyError as error:
            why = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise LargeResultsUnavailable(f"large results cannot be read ({why}); try again later") from error

    def chunks(self, job_id: str) -> Iterator[bytes]:
        """The result in pieces of 1 MiB, one short query each. Raises FileNotFoundError if it is gone."""
        missing = FileNotFoundError(f"no large result of job {job_id}")
        if (size := self.size(job_id)) is None:
            raise missing
        for number in range(-(-size // CHUNK)):
            query = select(pieces.c.data).where(pieces.c.job_id == _name(job_id), pieces.c.number == number)
            with self._engine.connect() as connection:
                piece = connection.scalar(query)
            if piece is None:
                raise missing
            yield piece

    def url(self, job_id: str, seconds: int) -> str | None:
        """Always None: a database signs no links, the API streams the result."""
        return None

    def delete(self, job_id: str) -> None:
        """Forget a result; one that is gone already is fine."""
        with self._engine.begin() as connection:
            connection.execute(delete(results).where(results.c.job_id == _name(job_id)))

    def delete_older_than(self, seconds: float) -> int:
        """Forget all results written longer ago; how many they were."""
        with self._engine.begin() as connection:
            return connection.execute(delete(results).where(results.c.stored_at < time.time() - seconds)).rowcount


def open_large_results(url: str) -> LargeResults:
    """The database behind `RESULTS_URL`, opened at its first use. Raises LargeResultsUnavailable for another URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = URL.create("unreadable")
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"postgresql+psycopg", "sqlite"} or not parsed.database:
        raise LargeResultsUnavailable(
            f"RESULTS_URL={parsed.render_as_string()} names no database this service can use: set it to "
            "sqlite:///folder/results.db or postgresql://user:password@host:5432/name."
        )
    return LargeResults(parsed)


def _create(engine: Engine, table: Table) -> None:
    for last_try in (False, True):
        try:
            with engine.begin() as connection:
                connection.execute(CreateTable(table, if_not_exists=True))
            return
        except IntegrityError:  # PostgreSQL, when two processes create it at the same moment
            if last_try:
                raise


def _name(job_id: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}", job_id):
        return job_id
    return "sha256-" + hashlib.sha256(job_id.encode("utf-8", "backslashreplace")).hexdigest()
