"""Runs as a folder of Parquet files: each run once, as it was last, wherever an export was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

import nbruns

dask = pytest.importorskip("dask.dataframe")
duckdb = pytest.importorskip("duckdb")
resource = pytest.importorskip("resource")

DAY = 86_400
START = 1_760_000_000  # 2025-10-09


def run(number: int, created: int | None = None, **fields: Any) -> dict[str, Any]:
    created = START + number * DAY // 4 if created is None else created
    return {
        **{"id": f"run_{number:05}", "object": "thread.run", "thread_id": f"thread_{number % 3}"},
        **{"assistant_id": "asst_1", "model": f"model_{number % 2}", "status": "completed"},
        **{"created_at": created, "started_at": created + 1, "completed_at": created + 9, "tools": []},
        **{
            "metadata": {"n": str(number)},
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        },
        **fields,
    }


class Store:
    """The runs of a server of lists; `paths` are those that it knows."""

    def __init__(self, runs: list[dict[str, Any]], *paths: str) -> None:
        self.runs, self.paths, self.asked = runs, paths, list[str]()
        self.failing = -1
        self.deleted = list[str]()  # threads that are listed still, and gone when they are asked for

    def answer(self, target: str) -> tuple[int, dict[str, Any]]:
        url, query = urlsplit(target), parse_qs(urlsplit(target).query)
        path = url.path.removeprefix("/v1")
        self.asked.append(target)
        if len(self.asked) == self.failing:
            return 400, {"error": {"message": "Not now", "type": "invalid_request_error"}}
        if path == "/threads" and path in self.paths:
            found = [{"id": id, "object": "thread"} for id in self.threads()]
        elif path == "/runs" and path in self.paths:
            found = self.runs
        elif path.split("/")[2:3] == self.deleted[:1] != []:
            return 404, {"error": {"message": "No such thread"}}
        elif path.endswith("/runs") and path.count("/") == 3:
            found = [r for r in self.runs if r["thread_id"] == path.split("/")[2]]
        else:
            return 404, {"error": {"message": "No such path"}}
        after, limit = query.get("after", [None])[0], int(query["limit"][0])
        assert query.get("order", ["asc"]) == ["asc"]
        if after is not None and after not in [each["id"] for each in found]:
            return 404, {"error": {"message": f"No run {after}"}}
        begin = 0 if after is None else 1 + [each["id"] for each in found].index(after)
        page = found[begin : begin + limit]
        last = page[-1]["id"] if page else None
        return 200, {"object": "list", "data": page, "last_id": last, "has_more": begin + limit < len(found)}

    def threads(self) -> list[str]:
        return sorted({r["thread_id"] for r in self.runs} | {*self.deleted})


@pytest.fixture
def serve() -> Iterator[Callable[[Store], nbruns.Client]]:
    servers = []

    def start(store: Store) -> nbruns.Client:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, payload = store.answer(self.path)
                body = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return nbruns.Client(f"http://127.0.0.1:{servers[-1].server_port}/v1", api_key="key")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def statuses(folder: Path) -> dict[str, str]:
    frame = pd.read_parquet(folder)
    assert frame["id"].is_unique
    return dict(zip(frame["id"], frame["status"], strict=True))


def expected(store: Store) -> dict[str, str]:
    return {each["id"]: each["status"] for each in store.runs}


@pytest.mark.parametrize("paths", [("/runs",), ("/threads",), ("/runs", "/threads")])
def test_all_runs_are_in_a_file_for_their_month(
    tmp_path: Path, serve: Callable[..., nbruns.Client], paths: tuple[str, ...]
) -> None:
    store = Store([run(n) for n in range(250)], *paths)
    folder = serve(store).runs.export(tmp_path / "runs")
    assert statuses(folder) == expected(store)
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet"))
    assert files == [f"month=2025-{month}/runs.parquet" for month in (10, 11, 12)]
    month = pd.read_parquet(folder / files[1], partitioning=None)
    assert set(month["created_at"].dt.month) == {11} and month["created_at"].is_monotonic_increasing
    frame = pd.read_parquet(folder)
    assert frame.runs.usage()["runs"].sum() == 250
    assert json.loads(frame.set_index("id")["metadata"]["run_00007"]) == {"n": "7"}


def test_the_next_export_asks_only_for_what_is_new(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n) for n in range(250)], "/runs")
    client = serve(store)
    client.runs.export(tmp_path)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    store.asked.clear()
    store.runs += [run(n) for n in range(250, 260)]
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)
    assert [parse_qs(urlsplit(each).query).get("after") for each in store.asked] == [None, ["run_00249"]]
    changed = [file.parent.name for file, at in written.items() if file.stat().st_mtime_ns != at]
    assert changed == ["month=2025-12"]


def test_runs_that_had_not_ended_are_as_they_are_next_time(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n) for n in range(20)], "/threads")
    store.runs[4] |= {"status": "requires_action", "completed_at": None}
    client = serve(store)
    client.runs.export(tmp_path)
    assert statuses(tmp_path)["run_00004"] == "requires_action"
    store.runs[4] |= {"status": "expired"}
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)


def test_a_run_that_is_listed_late_among_young_ones_is_not_lost(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    now = int(pd.Timestamp.now("UTC").timestamp())
    store = Store([run(1), run(2, now), run(3, now)], "/runs")
    client = serve(store)
    client.runs.export(tmp_path)
    store.runs.insert(2, run(4, now))
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)


def test_a_list_whose_last_run_is_gone_is_read_from_its_start(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n) for n in range(9)], "/runs")
    client = serve(store)
    client.runs.export(tmp_path)
    gone = store.runs.pop()
    store.runs.append(run(10))
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == {**expected(store), gone["id"]: "completed"}  # what was exported stays


def test_a_folder_of_an_earlier_version_is_carried_on_with(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n, START + n) for n in range(9)], "/runs")
    client = serve(store)
    client.runs.export(tmp_path)
    (file,) = tmp_path.rglob("*.parquet")
    pd.read_parquet(file, partitioning=None).drop(columns="duration").to_parquet(file, index=False)
    store.runs.append(run(10, START + 10))
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)
    assert list(pd.read_parquet(tmp_path)["duration"]) == [pd.Timedelta(seconds=9)] * 10


def test_some_threads_or_one(tmp_path: Path, serve: Callable[..., nbruns.Client]) -> None:
    store = Store([run(n) for n in range(30)])
    client = serve(store)
    client.runs.export(tmp_path, "thread_1")
    assert {int(id[4:]) % 3 for id in statuses(tmp_path)} == {1}
    client.runs.export(
        tmp_path,
        ["thread_1", "thread_2"],
    )
    assert {int(id[4:]) % 3 for id in statuses(tmp_path)} == {1, 2}


def test_since_leaves_out_older_runs_until_they_are_wanted(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n) for n in range(100)], "/runs")
    client = serve(store)
    client.runs.export(tmp_path, since="2025-10-20")
    assert pd.read_parquet(tmp_path)["created_at"].min() >= pd.Timestamp("2025-10-20", tz="UTC")
    client.runs.export(tmp_path, since="2025-10-25")
    assert len(statuses(tmp_path)) == sum(each["created_at"] >= 1_760_918_400 for each in store.runs)
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)


def test_a_server_that_lists_neither_says_what_to_do(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    with pytest.raises(TypeError, match=r"export\(folder, threads=\[…\]\)"):
        serve(Store([run(1)])).runs.export(tmp_path)


def test_a_thread_that_is_deleted_meanwhile_has_no_runs_any_more(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n) for n in range(9)], "/threads")
    store.deleted = ["thread_x"]
    client = serve(store)
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)
    with pytest.raises(nbruns.NotFoundError):  # but who names it is told
        client.runs.export(tmp_path, ["thread_x"])


def test_a_server_that_refuses_to_list_is_not_taken_for_one_that_cannot(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(1)], "/threads")
    store.failing = 1
    with pytest.raises(nbruns.BadRequestError, match="Not now"):
        serve(store).runs.export(tmp_path)
    assert len(store.asked) == 1


def test_what_a_killed_export_left_unfinished_is_cleared_away(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    left = tmp_path / "month=2025-10" / ".runs.parquet.unfinished"
    left.parent.mkdir()
    left.write_bytes(b"PAR1 and then nothing")
    store = Store([run(1, START + 60 * DAY)], "/runs")
    client = serve(store)
    client.runs.export(tmp_path)
    assert not left.exists() and statuses(tmp_path) == expected(store)


@pytest.mark.parametrize("since", ["soon", "", float("nan"), [1], pd.NaT])
def test_since_has_to_be_a_moment(tmp_path: Path, since: Any) -> None:
    client = nbruns.Client("http://127.0.0.1:9/v1", api_key="key")
    with pytest.raises(ValueError, match=r"is not a point in time\. Pass a date, a datetime, or a string"):
        client.runs.export(tmp_path / "runs", since=since)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "since", [1_760_918_400, "2025-10-20", "2025-10-20T02:00+02:00", datetime(2025, 10, 20)]
)
def test_since_is_a_number_a_text_or_a_datetime(
    tmp_path: Path, serve: Callable[..., nbruns.Client], since: Any
) -> None:
    store = Store([run(n) for n in range(100)], "/runs")
    serve(store).runs.export(tmp_path, since=since)
    assert len(statuses(tmp_path)) == sum(each["created_at"] >= 1_760_918_400 for each in store.runs)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(nbruns.SetupError, match=r"pip install 'pyarrow>="):
        nbruns.Client("http://127.0.0.1:9/v1", api_key="key").runs.export(tmp_path / "runs")


def test_no_runs_are_no_files(tmp_path: Path, serve: Callable[..., nbruns.Client]) -> None:
    folder = serve(Store([], "/runs")).runs.export(tmp_path)
    assert list(folder.rglob("*.parquet")) == []


def test_an_error_in_mid_list_keeps_what_was_written(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n, START + n) for n in range(2_500)], "/runs")
    store.failing = 24  # of 26 pages; 2,000 runs are written by then
    client = serve(store)
    with pytest.raises(nbruns.BadRequestError):
        client.runs.export(tmp_path)
    assert len(statuses(tmp_path)) == 2_000
    store.asked.clear()
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)
    assert len(store.asked) == 6  # whether it lists all runs, and five more pages of them


KILLED = """
    import glob, os, shutil, signal, sys
    import nbruns, nbruns.client.export, pandas, pyarrow.parquet, filelock

    url, folder = sys.argv[1:]

    def ids():
        files = glob.glob(folder + "/*/*.parquet")
        tables = [pyarrow.parquet.read_table(file, partitioning=None) for file in files]  # whole, at any moment
        return [id for table in tables for id in table["id"].to_pylist()]

    def exported(deadly):
        # By a child that kills itself at the so-manieth file that it opens, makes, moves or removes in the folder.
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] == 0
        seen = 0
        def watch(event, args):
            nonlocal seen
            if event in ("open", "os.rename", "os.mkdir", "os.remove") and folder in str(args[0]):
                seen += 1
                if seen == deadly:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        nbruns.Client(url, api_key="key").runs.export(folder)
        os._exit(0)

    deadly = 1
    while not exported(deadly):
        before = ids()
        assert len(before) == len(set(before)), deadly
        assert exported(deadly + 2) or exported(0)
        after = ids()
        assert len(after) == len(set(after)) == 300, (deadly, len(after))
        shutil.rmtree(folder)
        deadly += 1
    print(deadly)
"""


def test_killed_at_every_step_no_run_is_lost_and_none_is_there_twice(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n) for n in range(300)], "/runs")
    folder = tmp_path / "runs"
    program = [sys.executable, "-c", textwrap.dedent(KILLED), serve(store).base_url, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
    assert statuses(folder) == expected(store)


def test_a_disk_that_is_full_leaves_what_was_written(
    tmp_path: Path, serve: Callable[..., nbruns.Client]
) -> None:
    store = Store([run(n) for n in range(100)], "/runs")
    client = serve(store)
    client.runs.export(tmp_path)
    before = expected(store)
    store.runs += [run(n) for n in range(100, 110)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file gets larger: a write ends in the middle
    try:
        with pytest.raises(OSError):
            client.runs.export(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert statuses(tmp_path) == before
    client.runs.export(tmp_path)
    assert statuses(tmp_path) == expected(store)


def test_duckdb_reads_it_as_it_is(tmp_path: Path, serve: Callable[..., nbruns.Client]) -> None:
    folder = serve(Store([run(n) for n in range(100)], "/runs")).runs.export(tmp_path)
    rows = duckdb.sql(
        f"SELECT month, count(*), sum(total_tokens), min(metadata->>'n') FROM '{folder}/*/*.parquet' "
        "WHERE created_at >= TIMESTAMPTZ '2025-11-01' GROUP BY month"
    ).fetchall()
    assert rows == [("2025-11", 9, 90, "91")]


def test_dask_reads_it_as_it_is(tmp_path: Path, serve: Callable[..., nbruns.Client]) -> None:
    folder = serve(Store([run(n) for n in range(100)], "/runs")).runs.export(tmp_path)
    frame = dask.read_parquet(folder)
    assert frame.npartitions == 2
    tokens = frame.groupby("model")["total_tokens"].sum().compute()
    assert tokens.to_dict() == {"model_0": 500, "model_1": 500}
    assert str(frame.dtypes["created_at"]) == "datetime64[ms, UTC]"
