"""The errors that nbruns raises.

NbrunsError
├── APIError                    the server answered with an error; carries its status, code, request id
│   ├── AuthenticationError     401
│   ├── PermissionDeniedError   403
│   ├── NotFoundError           404
│   ├── ConflictError           409
│   ├── BadRequestError         400, 422
│   │   └── ActiveRunError      the thread already has an active run; carries its id
│   ├── RateLimitError          429; carries retry_after
│   └── ServerError             5xx
├── ConnectionError             no answer: refused, reset, cut off; it is the builtin ConnectionError too
├── TimeoutError                no answer in time, or a wait exceeded its timeout; it is the builtin TimeoutError too
├── StreamError                 a broken or unfinished stream; carries the snapshot so far
├── LimitError                  a limit of answers, lists, streams or rounds of tool calls was reached
├── InvalidIdError              an id that can't be part of a path; it is a ValueError too
├── ForkError                   a run has no such point, or no such call, to fork it at; it is a ValueError too
├── RunFailed                   the caller asked for success, and the run ended otherwise
├── ToolError                   a tool's arguments were refused, or its function raised
└── SetupError                  this machine lacks something: a server, an extra, a port, a writable database
"""

from __future__ import annotations

import builtins
import re
import shlex
import traceback
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from nbruns.text import excerpt

if TYPE_CHECKING:
    from nbruns.objects import Run
    from nbruns.snapshot import RunSnapshot

_PACKAGE = str(Path(__file__).parent)


class NbrunsError(Exception):
    """Base class of all errors that nbruns raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook displays: the lines of the user's code, and the message with its remedy.

        IPython calls it: https://ipython.readthedocs.io/en/stable/config/integrating.html#custom-exceptions
        """
        frames = traceback.extract_tb(self.__traceback__)
        own = takewhile(lambda frame: not frame.filename.startswith(_PACKAGE), frames)
        lines = [f"  line {frame.lineno}: {frame.line}" for frame in own if "IPython" not in frame.filename]
        return [*lines, f"{type(self).__name__}: {self}"]


class APIError(NbrunsError):
    """The server answered with an error.

    Attributes:
        status: HTTP status; 200 if a successful answer contained an error or no usable JSON.
        message: The server's message.
        code: Code from the error object; None if absent.
        type: Type from the error object; None if absent.
        param: The parameter that the error is about; None if absent.
        request_id: Id of the request from the `x-request-id` header; None if absent.
        method: HTTP method of the request.
        path: Path of the request.
    """

    remedy = "Read the message above, and check that base_url points to a server with this API."
    #: Seconds after which to retry, if the server says so.
    retry_after: float | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        method: str | None = None,
        path: str | None = None,
    ) -> None:
        self.message, self.status, self.code, self.type, self.param = message, status, code, type, param
        self.request_id, self.method, self.path = request_id, method, path
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.method} {self.path}" if self.method else "the server"
        status = f"{self.status} " if self.status else ""
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{where} answered {status}{self.message}{request}\n{self.remedy}"


class AuthenticationError(APIError):
    """401: the key is missing or not accepted."""

    remedy = "Pass api_key=… (or set NBRUNS_API_KEY), or token_provider=… if tokens expire."


class PermissionDeniedError(APIError):
    """403: the key is valid, but lacks the permission for this request."""

    remedy = "Use a key with this permission, or ask the operator of the server."


class NotFoundError(APIError):
    """404: no such object, or no such path below the base URL."""

    remedy = "Check the id, and that base_url includes the API's path (often /v1)."


class ConflictError(APIError):
    """409: the object was changed by another request at the same time."""

    remedy = "Retrieve the object again, then retry."


class BadRequestError(APIError):
    """400 or 422: the server refused the parameters."""

    remedy = "Correct the parameter named in the message. Nothing was changed."


class ActiveRunError(BadRequestError):
    """400: the thread has an active run, so you can't start another run or add a message. `run_id` is the id of the
    active run, if the server names it.
    """

    remedy = "Wait for that run, cancel it, or use another thread."

    @property
    def run_id(self) -> str | None:
        """Id of the active run; None if the server doesn't name it."""
        found = re.search(r"\brun_\w+", self.message)
        return found[0] if found else None


class RateLimitError(APIError):
    """429: too many requests. `retry_after` is the number of seconds after which to retry, or None."""

    remedy = "Wait, then retry; max_retries=… retries for you."


class ServerError(APIError):
    """5xx: the server failed."""

    remedy = "Retry later. If it persists, report the request id to the operator of the server."


BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: BadRequestError,
    429: RateLimitError,
}


# Shadows the built-in class on purpose, as TimeoutError below: users write `nbruns.ConnectionError`. It inherits from
# the built-in class so that `except ConnectionError` and `except OSError` work too.
class ConnectionError(NbrunsError, builtins.ConnectionError):
    """The server did not respond: the connection was refused, reset or cut off."""


class TimeoutError(NbrunsError, builtins.TimeoutError):
    """The server did not respond in time, or a wait exceeded its timeout. The run continues."""


class StreamError(NbrunsError):
    """An event stream broke, or ended before its run did. `snapshot` is the state so far."""

    def __init__(self, message: str, snapshot: RunSnapshot | None = None) -> None:
        super().__init__(message)
        self.snapshot = snapshot


class LimitError(NbrunsError):
    """A limit was reached. Limits protect you from faulty servers that would fill the memory or never stop sending.

    The message names the limit, and what to do if the server is right.
    """


class InvalidIdError(NbrunsError, ValueError):
    """An id can't be part of a path: it is empty, or would lead to another path. Nothing was sent."""


class ForkError(NbrunsError, ValueError):
    """A run has no such point, or no such call, to fork it at. Nothing was created."""


class RunFailed(NbrunsError):
    """A run ended with a status other than `completed`. `run` is the run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        error = run.last_error or run.incomplete_details or {}
        why = error.get("message") or error.get("reason") or "no reason given"
        super().__init__(f"Run {run.id} ended as {run.status}: {excerpt(why)}")

    def __reduce__(self) -> tuple[type[RunFailed], tuple[Run]]:
        return type(self), (self.run,)


class ToolError(NbrunsError):
    """A tool could not be called, or its function raised. The message can be sent to the model."""


class SetupError(NbrunsError):
    """Something is missing on this machine. The message says what, and how to fix it."""


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra. It lists them, because nbruns is not on PyPI."""
    from importlib.metadata import requires

    needed = (line.partition(";") for line in requires("nbruns") or ())
    names = [name.strip() for name, _, marker in needed if f'extra == "{extra}"' in marker.replace("'", '"')]
    return f"pip install {' '.join(map(shlex.quote, names))}"


def error_text(error: BaseException) -> str:
    """Return an error as text for users: the message of nbruns' own errors, else the type and a shortened message."""
    return str(error) if isinstance(error, NbrunsError) else f"{type(error).__name__}: {excerpt(error, 500)}"
