"""The errors: what is drawn is what there is, and their messages are one bounded sentence with a remedy."""

from __future__ import annotations

import builtins
import inspect
import pickle

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nbruns import errors
from nbruns.errors import (
    BY_STATUS,
    ActiveRunError,
    APIError,
    BadRequestError,
    NbrunsError,
    RunFailed,
    StreamError,
)
from nbruns.objects import Run
from nbruns.text import excerpt

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, NbrunsError)]


def drawn_parents() -> dict[str, str | None]:
    """Each name in the docstring's tree with the name that it hangs from."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        branch, _, rest = line.rpartition("── ")
        if not branch and rest != "NbrunsError":
            continue
        depth = len(branch) // 4 + 1 if branch else 0
        name = rest.split()[0]
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else None
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    real = {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES if kind is not NbrunsError}
    assert drawn_parents() == {"NbrunsError": None} | real


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_says_in_a_line_what_it_is_for(kind: type[NbrunsError]) -> None:
    assert kind.__doc__ and len(kind.__doc__.splitlines()[0]) > 15


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if issubclass(kind, APIError)])
def test_an_api_error_says_what_happened_where_and_what_to_do(kind: type[APIError]) -> None:
    error = kind("It broke.", status=499, method="POST", path="/threads/t/runs", request_id="req_7")
    happened, remedy = str(error).splitlines()
    assert happened == "POST /threads/t/runs answered 499 It broke. [request req_7]"
    assert len(remedy) > 20
    assert kind is APIError or kind is ActiveRunError or remedy != APIError.remedy


def test_an_api_error_carries_what_the_server_said_and_none_for_the_rest() -> None:
    error = APIError("No.", status=400, code="c", type="t", param="p")
    assert (error.message, error.status, error.code, error.type, error.param) == ("No.", 400, "c", "t", "p")
    assert (error.request_id, error.method, error.path, error.retry_after) == (None, None, None, None)
    assert str(error).startswith("the server answered 400 No.\n")


def test_each_status_has_the_class_that_names_it() -> None:
    documented = {
        int(code): kind
        for kind in CLASSES
        if issubclass(kind, APIError) and kind not in (APIError, ActiveRunError, errors.ServerError)
        for code in (kind.__doc__ or "").split(":")[0].split(" or ")
    }
    assert documented == BY_STATUS


@pytest.mark.parametrize(
    ("message", "run_id"),
    [
        ("Thread thread_abc already has an active run run_x1Y2z3.", "run_x1Y2z3"),
        ("Can't add messages to thread_abc while a run run_42 is active.", "run_42"),
        ("The thread already has an active run.", None),
        ("Can't: overrun_9 is no run", None),
    ],
)
def test_an_active_run_error_carries_the_runs_id(message: str, run_id: str | None) -> None:
    error = ActiveRunError(message, status=400)
    assert error.run_id == run_id
    assert isinstance(error, BadRequestError)


def test_a_failed_run_says_how_it_ended_and_why() -> None:
    failed = RunFailed(
        Run({"id": "run_1", "status": "failed", "last_error": {"message": "no\x1b[31m " + "x" * 999}})
    )
    assert failed.run.id == "run_1"
    assert str(failed).startswith("Run run_1 ended as failed: no\\x1b[31m xxx")
    assert len(str(failed)) < 300
    cut = RunFailed(
        Run({"id": "run_1", "status": "incomplete", "incomplete_details": {"reason": "max_prompt_tokens"}})
    )
    assert str(cut) == "Run run_1 ended as incomplete: max_prompt_tokens"
    assert (
        str(RunFailed(Run({"id": "run_1", "status": "expired"})))
        == "Run run_1 ended as expired: no reason given"
    )


def test_a_stream_error_carries_the_snapshot() -> None:
    assert StreamError("cut off").snapshot is None
    marker = object()
    assert StreamError("cut off", marker).snapshot is marker  # type: ignore[arg-type]


def test_our_connection_and_timeout_errors_are_the_built_in_ones_too() -> None:
    assert issubclass(errors.ConnectionError, builtins.ConnectionError)
    assert issubclass(errors.TimeoutError, builtins.TimeoutError)
    assert str(errors.TimeoutError("It took too long.")) == "It took too long."


def test_an_error_survives_the_way_from_another_process() -> None:
    error = APIError("No.", status=400, code="c", method="GET", path="/x", request_id="req_1")
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.status, twin.code) == (str(error), 400, "c")
    failed = pickle.loads(pickle.dumps(RunFailed(Run({"id": "run_1", "status": "expired"}))))
    assert failed.run.id == "run_1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\n  lines\tand\ttabs", "two lines and tabs"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("bidi \u202e and half a pair \ud800", "bidi \\u202e and half a pair \\ud800"),
        ("Ærøskøbing 東京 🌧", "Ærøskøbing 東京 🌧"),
        (None, "None"),
        ({"a": "\n"}, "{'a': '\\n'}"),
        ("", ""),
    ],
)
def test_an_excerpt_is_one_line_without_control_characters(text: object, shown: str) -> None:
    assert excerpt(text) == shown


@pytest.mark.parametrize(
    "text",
    ["x" * 5000, "\x1b" * 5000, "\U000e0001" * 30, "a " * 5000],
    ids=["letters", "escapes", "few characters with long escapes", "words"],
)
def test_an_excerpt_has_at_most_so_many_characters(text: str) -> None:
    assert len(excerpt(text, 40)) <= 40
    assert excerpt(text, 40).endswith("…")


def test_an_excerpt_that_fits_is_whole() -> None:
    assert excerpt("x" * 40, 40) == "x" * 40


def test_a_notebook_shows_its_own_lines_and_last_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    shell.run_cell("import nbruns\nclient = nbruns.Client('http://127.0.0.1:9/v1', max_retries=0)")
    shell.run_cell("def ask():\n    return client.runs.retrieve('run_1', 'thread_1')")
    shell.run_cell("thread = 1\nask()")
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["  line 2: ask()", "  line 2: return client.runs.retrieve('run_1', 'thread_1')"]
    assert told[2].startswith(
        "ConnectionError: GET 127.0.0.1:9/v1/threads/thread_1/runs/run_1: no connection."
    )
    assert len(told) == 3
