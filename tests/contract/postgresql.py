"""A private PostgreSQL on a free port, with nothing of it left afterwards."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .processes import free_ports, listening, until
from .stacks import program


class PostgreSQL:
    """The server can be stopped and started again on its data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, Path(program("scripts/postgresql.sh"))
        [self.port] = free_ports(1)
        self.url = f"postgresql://tests:secret@127.0.0.1:{self.port}/postgres"
        # It refuses to run as root.
        self._as: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(folder, **self._as)
        password = folder / "password"
        password.write_text("secret")
        password.chmod(0o644)
        options = ["--username=tests", f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync"]
        subprocess.run(
            [self.programs / "initdb", f"--pgdata={folder}/data", *options],
            cwd=folder, stdout=subprocess.DEVNULL, check=True, **self._as,
        )  # fmt: skip

    def start(self) -> None:
        wanted = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        settings = [part for setting in wanted for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", *settings],
                cwd=self.folder, stdout=log, stderr=log, **self._as,
            )  # fmt: skip
        until(lambda: listening(self.port), 20, lambda: (self.folder / "log").read_text())

    def stop(self) -> None:
        """At once: connections are cut."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


@contextmanager
def postgresql() -> Generator[PostgreSQL]:
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = PostgreSQL(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
