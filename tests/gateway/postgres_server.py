"""A PostgreSQL server of its own for tests, on loopback, that ends with them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text


def _binary(name: str) -> Path | None:
    """On the path, or where Debian keeps them, the newest."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return places[-1] if places else None


def _as_its_user() -> list[str]:
    """The server refuses to be run by root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


class PostgresServer:
    """`with` makes an empty cluster and runs it. url: of its one database. stop, start: it goes away and comes back."""

    def __init__(self) -> None:
        self._binaries = {name: _binary(name) for name in ("initdb", "pg_ctl")}
        self._folder: Path | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"postgresql://ostro@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> PostgresServer:
        missing = [name for name, where in self._binaries.items() if where is None]
        if missing:
            reason = f"PostgreSQL is not installed ({missing[0]} is missing); on Debian: apt-get install postgresql"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self._folder = Path(tempfile.mkdtemp(prefix="ostro-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "ostro", "--auth=trust", "--no-sync")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._folder is not None
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-p {self._port} -h 127.0.0.1 -c unix_socket_directories='' -c max_connections=100"
        self._run("pg_ctl", "-w", "-D", f"{self._folder}/data", "-l", f"{self._folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "-D", f"{self._folder}/data", "stop")

    def empty(self) -> None:
        """Drop all that there is in the database."""
        engine = create_engine(make_url(self.url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()

    def _run(self, name: str, *arguments: str) -> None:
        command = [*_as_its_user(), str(self._binaries[name]), *arguments]
        # Not captured: the server that pg_ctl starts would keep the pipe open.
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
