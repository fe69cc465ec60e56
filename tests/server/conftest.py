"""One server in a thread for all tests of this folder, on which each test scripts models of its own; one PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from postgresql_server import NewDatabase, cluster
from served import Api, Registry, Script, Scripted, Turn, thread_server

from nbruns.server.http import Server
from nbruns.server.models import Models
from nbruns.server.storage import migrations, store
from nbruns.server.storage.database import Database

_names = (f"scripted-{number}" for number in itertools.count(1))


@pytest.fixture(scope="session")
def models() -> Models:
    return Registry()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Server]:
    with thread_server(tmp_path_factory.mktemp("server"), models) as server:
        yield server


@pytest.fixture(scope="session")
def url(server: Server) -> str:
    return server.url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[NewDatabase]:
    with cluster() as new_database:
        yield new_database


@pytest.fixture
def api(url: str) -> Api:
    return Api(url)


@pytest.fixture
def script(api: Api, models: Models) -> Callable[..., Script]:
    """script(turn, turn, …): a model that answers with these turns."""

    def make(*turns: Turn) -> Script:
        name, model = next(_names), Scripted(*turns)
        models.add(name, model)
        return Script(api, name, model)

    return make


@pytest.fixture
def opened() -> Iterator[Callable[[str], Database]]:
    """opened(url): a database with its tables, closed when the test is over."""
    databases: list[Database] = []

    def open_(url: str) -> Database:
        databases.append(Database(url, store.EventLog()))
        migrations.prepare(databases[-1].engine)
        return databases[-1]

    yield open_
    for database in databases:
        database.close()
