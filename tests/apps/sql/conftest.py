"""Our databases in small, in every kind of database there is on this system."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.run import Limits, Reader, open_reader

KINDS = ("sqlite", "duckdb", "postgres")


def _tool(name: str) -> str | None:
    """A program of PostgreSQL's server; Debian keeps them off the path."""
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)
    return str(Path(found).resolve()) if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server of our own, without the name of a database at its end."""
    initdb, server = _tool("initdb"), _tool("pg_ctl")
    if not initdb or not server:
        pytest.skip("PostgreSQL is not tested: initdb and pg_ctl were not found; apt-get install postgresql")
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # the server does not run as root
        owner = next((name for name in ("postgres", "nobody") if _is_user(name)), None)
        if owner is None:
            pytest.skip("PostgreSQL is not tested: it does not run as root, and there is no user postgres or nobody")
        shutil.chown(home, owner)
        user = {"user": owner, "extra_groups": []}

    def run(*command: str) -> None:
        output = subprocess.run(
            command, capture_output=True, text=True, cwd=home, env=os.environ | {"LC_ALL": "C.UTF-8"}, **user
        )
        assert output.returncode == 0, output.stdout + output.stderr

    try:
        run(
            initdb, "--pgdata", f"{home}/data", "--auth", "trust", "--username", "owner", "--no-sync", "--encoding=UTF8"
        )
        options = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off"
        run(server, "start", "--pgdata", f"{home}/data", "--wait", "--log", f"{home}/log", "--options", options)
        try:
            yield f"postgresql://owner@/{{}}?host={home}"
        finally:
            run(server, "stop", "--pgdata", f"{home}/data", "--mode", "immediate")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="session", params=KINDS)
def addresses(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where our three databases are, by name, for each kind of database."""
    if request.param == "postgres":
        return _fill_postgres(request.getfixturevalue("postgres"))
    folder = tmp_path_factory.mktemp(request.param)
    found = {name: f"{request.param}:///{folder}/{name}.{request.param}" for name in SOURCES}
    for name, address in found.items():
        generate(name, address, size="tiny")
    return found


def _fill_postgres(server: str) -> dict[str, str]:
    import psycopg

    found = {name: server.format(name) for name in SOURCES}
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        for name in SOURCES:
            connection.execute(f"CREATE DATABASE {name}")
    for name, address in found.items():
        generate(name, address, size="tiny")
    return found


@pytest.fixture(scope="session")
def readers(addresses: dict[str, str]) -> Iterator[dict[str, Reader]]:
    """Our three databases, opened for reading."""
    found = {
        name: open_reader(address, schema=database(name), limits=Limits(seconds=20))
        for name, address in addresses.items()
    }
    yield found
    for reader in found.values():
        reader.close()


@pytest.fixture(scope="session")
def sqlite_readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reader]]:
    """The same in SQLite, to compare with."""
    folder = tmp_path_factory.mktemp("reference")
    for name in SOURCES:
        generate(name, folder / f"{name}.sqlite", size="tiny")
    found = {name: open_reader(folder / f"{name}.sqlite") for name in SOURCES}
    yield found
    for reader in found.values():
        reader.close()
