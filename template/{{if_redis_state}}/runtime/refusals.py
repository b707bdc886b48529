"""Take Redis' "not now" for a lost connection: wait and try again, or answer 503; never for a fault of the job.

Redis refuses commands while its memory is full, its disk fails, its replicas are away, it loads its file or becomes a
replica. redis-py raises a ResponseError for most of these, which libraries take for a bug of the caller: it ends a
worker, or a job that did nothing wrong.
"""

from typing import cast

from redis._parsers.base import BaseParser  # the only place where redis-py lets an answer be classed, 5.0 to 8.1
from redis.exceptions import ConnectionError


class RefusedNow(ConnectionError):
    """Redis answered that it does not serve this command now; the text says why. Nothing was changed."""


CODES = (
    "BUSY",  # a script runs too long
    "CLUSTERDOWN",
    "EXECABORT",  # one of the others inside a transaction
    "LOADING",  # it reads its file
    "MASTERDOWN",  # a replica without its master
    "MISCONF",  # its disk fails
    "NOPERM",  # its users are being changed
    "NOREPLICAS",  # min-replicas-to-write
    "OOM",  # maxmemory
    "READONLY",  # it has become a replica
    "TRYAGAIN",
    "UNBLOCKED",  # it has become a replica while a command waited
)


def install() -> None:
    """For every client of this process, those of libraries included."""
    cast("dict[str, object]", BaseParser.EXCEPTION_CLASSES).update(dict.fromkeys(CODES, RefusedNow))
