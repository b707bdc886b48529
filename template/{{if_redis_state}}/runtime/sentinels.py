"""Read `sentinel://` URLs percent-decoded, as redis-py reads `redis://`: a password such as `p@ss/w` must log in."""

from typing import Any
from urllib.parse import unquote, urlsplit


def parse(url: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The nodes of `sentinel://[user:password@]host:26379/0;sentinel://…`, and how to log in to the master."""
    nodes = [urlsplit(part.strip()) for part in url.split(";") if part.strip()]
    first = nodes[0]
    login = {
        "db": int(first.path.strip("/") or 0),
        "username": None if first.username is None else unquote(first.username) or None,
        "password": None if first.password is None else unquote(first.password),
    }
    return [(unquote(node.hostname or "localhost"), node.port or 26379) for node in nodes], login
