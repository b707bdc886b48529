"""The proxies that the other files here stand on: what they let through, and each answer they give instead.

The server behind them counts what it is asked to do.
"""

import hashlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import cast

import pytest

from .resp_proxy import Answer, RespProxy
from .tcp_proxy import TcpProxy

OOM = Answer("error", "OOM command not allowed")
END = b"+END\r\n"
SCRIPT = "return redis.call('INCR', 'taken')"


class Server(socketserver.ThreadingTCPServer):
    """As much of Redis as the tests need."""

    daemon_threads = allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Client)
        self.executed: list[str] = []


class Client(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        executed = cast("Server", self.server).executed
        queue: list[str] | None = None
        broken = False
        while line := self.rfile.readline():
            parts = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                parts.append(self.rfile.read(size + 2)[:-2].decode())
            said = " ".join(parts)
            if parts[0] == "MULTI":
                queue, broken, reply = [], False, "+OK"
            elif parts[0] == "EXEC":
                executed += [] if broken else queue or []
                reply = (
                    "-EXECABORT Transaction discarded"
                    if broken
                    else f"*{len(queue or [])}" + "\r\n:1" * len(queue or [])
                )
                queue = None
            elif parts[0] == "DISCARD":
                queue, reply = None, "+OK"
            elif parts[0] == "NO-SUCH-THING":
                broken, reply = True, "-ERR unknown command"
            elif parts[0] == "SUBSCRIBE":
                reply = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi"
            elif queue is not None:
                queue.append(said)
                reply = "+QUEUED"
            else:
                executed += [] if said == "END" else [said]
                reply = {"NEST": "*2\r\n*1\r\n$3\r\na\r\n\r\n%1\r\n+b\r\n_", "NIL": "$-1"}.get(parts[0], f"+{said}")
            self.wfile.write(f"{reply}\r\n".encode())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(server: Server) -> Iterator[RespProxy]:
    port = server.server_address[1]
    with RespProxy(port, lambda script, arguments: "take" if script == SCRIPT else "") as proxy:
        yield proxy


def ask(proxy: TcpProxy, *commands: str, wait: float = 0.5) -> str:
    """What comes for these, sent in one piece; `|` where the connection was closed. Waits where no answer comes."""
    words = [command.split(" ") if command[:4] != "EVAL" else command.split(" ", 1) for command in (*commands, "END")]
    sent = "".join(f"*{len(parts)}\r\n" + "".join(f"${len(part)}\r\n{part}\r\n" for part in parts) for parts in words)
    got = b""
    with closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=wait)) as connection:
        connection.sendall(sent.encode())
        while not got.endswith(END):
            try:
                data = connection.recv(4096)
            except TimeoutError:
                break
            if not data:
                return f"{got.decode()}|"
            got += data
    return got.removesuffix(END).decode()


ANSWERS = [
    (OOM, "+A\r\n-OOM command not allowed\r\n+C\r\n", ["A", "C"]),
    (OOM.after(), "+A\r\n-OOM command not allowed\r\n+C\r\n", ["A", "B", "C"]),
    (Answer("close"), "+A\r\n|", ["A"]),
    (Answer("close").after(), "+A\r\n|", ["A", "B"]),
    (Answer("silence"), "+A\r\n", ["A"]),
    (Answer("silence").after(), "+A\r\n", ["A", "B"]),
    (Answer("delay", seconds=0.2), "+A\r\n+B\r\n+C\r\n", ["A", "B", "C"]),
    (Answer("truncate"), "+A\r\n+B|", ["A", "B"]),
]


@pytest.mark.parametrize(("answer", "heard", "executed"), ANSWERS, ids=[f"{a.kind}-{a.executed}" for a, *_ in ANSWERS])
def test_each_answer_in_the_middle_of_a_pipeline(
    proxy: RespProxy, server: Server, answer: Answer, heard: str, executed: list[str]
) -> None:
    rule = proxy.answer("B", answer)
    assert ask(proxy, "A", "B", "C") == heard
    assert (server.executed, rule.met) == (executed, 1)
    assert ask(proxy, "B") == "+B\r\n", "once was asked for"


def test_a_delayed_reply_comes_after_its_time(proxy: RespProxy) -> None:
    proxy.answer("B", Answer("delay", seconds=0.8))
    began = time.monotonic()
    assert ask(proxy, "B", wait=5) == "+B\r\n"
    assert time.monotonic() - began >= 0.8


def test_a_rule_chooses_by_argument_and_count(proxy: RespProxy) -> None:
    rule = proxy.answer("SET", OOM, having="job-7", skip=1, times=2)
    heard = ask(proxy, "SET job-1", *["SET job-7"] * 4)
    assert [line[0] for line in heard.split()] == ["+", "j", "+", "j", "-", "c", "n", "a", "-", "c", "n", "a", "+", "j"]
    assert rule.met == 2


def test_scripts_are_known_by_their_names_also_by_their_hashes(proxy: RespProxy, server: Server) -> None:
    rule = proxy.answer("take", OOM, times=None)
    assert "OOM" in ask(proxy, f"EVAL {SCRIPT}")
    assert "OOM" in ask(proxy, f"EVALSHA {hashlib.sha1(SCRIPT.encode()).hexdigest()}")
    assert "OOM" not in ask(proxy, "EVAL return 1")
    assert rule.met == 2
    proxy.clear()
    assert "OOM" not in ask(proxy, f"EVAL {SCRIPT}")


def test_what_is_refused_in_a_transaction_ends_all_of_it(proxy: RespProxy, server: Server) -> None:
    proxy.answer("B", OOM)
    assert (
        ask(proxy, "MULTI", "A", "B", "EXEC")
        == "+OK\r\n+QUEUED\r\n-OOM command not allowed\r\n-EXECABORT Transaction discarded\r\n"
    )
    proxy.answer("EXEC", OOM)
    assert ask(proxy, "MULTI", "A", "EXEC", "C").endswith("-OOM command not allowed\r\n+C\r\n")
    assert server.executed == ["C"]
    server.executed.clear()
    assert ask(proxy, "MULTI", "A", "B", "EXEC").endswith("*2\r\n:1\r\n:1\r\n")
    assert server.executed == ["A", "B"]


def test_whole_replies_pass_and_so_does_what_is_published(proxy: RespProxy) -> None:
    assert ask(proxy, "NEST", "NIL", "A") == "*2\r\n*1\r\n$3\r\na\r\n\r\n%1\r\n+b\r\n_\r\n$-1\r\n+A\r\n"
    proxy.answer("PING", OOM)
    heard = ask(proxy, "SUBSCRIBE news", "PING")
    assert "$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n" in heard
    assert "-OOM command not allowed\r\n" in heard


def test_a_proxy_cuts_refuses_and_accepts_again(server: Server) -> None:
    with TcpProxy(server.server_address[1]) as proxy:
        with closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=5)) as connection:
            connection.sendall(b"*1\r\n$1\r\nA\r\n")
            assert connection.recv(10) == b"+A\r\n"
            proxy.cut()
            assert connection.recv(10) == b""
        assert ask(proxy, "A") == "+A\r\n"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            ask(proxy, "A")
        proxy.accept()
        assert ask(proxy, "A") == "+A\r\n"


def test_a_frozen_proxy_forwards_nothing_until_it_thaws(server: Server) -> None:
    with TcpProxy(server.server_address[1]) as proxy:
        proxy.freeze()
        with closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3)) as connection:
            connection.sendall(b"*1\r\n$1\r\nA\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(10)
            assert server.executed == []
            proxy.thaw()
            connection.settimeout(5)
            assert connection.recv(10) == b"+A\r\n"


def test_a_slow_proxy_delays_each_piece(server: Server) -> None:
    with TcpProxy(server.server_address[1]) as proxy:
        proxy.delay = 0.3
        began = time.monotonic()
        assert ask(proxy, "A", wait=5) == "+A\r\n"
        assert time.monotonic() - began >= 0.6, "there and back"
