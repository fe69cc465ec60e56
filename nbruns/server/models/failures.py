"""Errors of an upstream as a run's `last_error`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from nbruns.headers import retry_after
from nbruns.server.models.endpoint import StreamedError, mapping, text
from nbruns.server.models.protocol import ErrorCode, ModelError
from nbruns.text import excerpt

#: Error codes of runs, by HTTP status.
CODES: dict[int, ErrorCode] = {
    400: "invalid_prompt",
    413: "invalid_prompt",
    422: "invalid_prompt",
    429: "rate_limit_exceeded",
}

#: Statuses that are worth a retry. None means a connection that failed or broke.
PASSING = (None, 408, 409, 500, 502, 503, 504, 529)

#: Error codes of runs, by the code or type of an error object without an HTTP status.
KINDS: dict[str, ErrorCode] = {
    "rate_limit_exceeded": "rate_limit_exceeded",
    "rate_limit_error": "rate_limit_exceeded",
    "invalid_prompt": "invalid_prompt",
    "invalid_request_error": "invalid_prompt",
    "context_length_exceeded": "invalid_prompt",
}

#: Messages and codes of endpoints for a conversation that is too long.
TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|context (length|size|window)"
    r"|prompt is too long|too many (input )?tokens",
    re.IGNORECASE,
)

#: Maximum number of characters read from an error; fewer are shown.
READ = 10_000


class Failure(ModelError):
    """Error of an upstream.

    `status` is None if the connection failed; `kind` is the code or type of its error object,
    `param` the parameter that it names, `wait` the number of seconds after which to retry.
    """

    def __init__(self, host: str, said: str, error: Exception) -> None:
        detail = _detail(error)
        self.status: int | None = getattr(error, "status_code", None)
        self.kind = text(detail.get("code") or detail.get("type"))[:READ]
        self.param = text(detail.get("param"))[:READ]
        self.said = said
        self.wait = retry_after(getattr(getattr(error, "response", None), "headers", {}))
        status = f" ({self.status})" if self.status else ""
        super().__init__(self._code(detail), f"The upstream {host} failed{status}: {excerpt(said)}")

    @property
    def is_unknown_model(self) -> bool:
        """Whether the upstream has no model with this name."""
        return self.kind == "model_not_found" or (self.status == 404 and "model" in self.said.lower())

    @property
    def says_model_is_unknown(self) -> bool:
        """Whether the upstream says that it lacks the requested model, rather than the operation."""
        about = re.sub(r"/models\S*", "", self.said).lower()
        return self.kind == "model_not_found" or (self.status == 404 and "model" in about)

    @property
    def is_too_long(self) -> bool:
        """Whether the conversation is too long for the model."""
        return self.status in (None, 400, 413) and bool(TOO_LONG.search(f"{self.kind} {self.said}"))

    @property
    def is_rate_limit(self) -> bool:
        """Whether a rate limit was reached. An exhausted quota is not one."""
        return self.code == "rate_limit_exceeded" and self.kind != "insufficient_quota"

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.is_rate_limit or self.status in PASSING

    def _code(self, detail: Mapping[str, Any]) -> ErrorCode:
        for number in (
            self.status,
            detail.get("code"),
        ):  # within a stream, some upstreams send the status as the code
            if isinstance(number, int) and number in CODES:
                return CODES[number]
        return "server_error" if self.status else KINDS.get(self.kind, "server_error")


def failure(error: Exception, host: str, key: str, mend: str) -> ModelError:
    """Return the error for a run, truncated and without the key. `mend` says what to do about a refused key."""
    for ours in (
        error,
        error.__cause__,
    ):  # openai wraps the error that the hook for responses raised
        if isinstance(ours, ModelError):
            return ModelError(
                ours.code, ours.message
            )  # a copy, because the original refers to the request with the key
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return ModelError("server_error", f"The upstream {host} refused the key ({status}): {mend}.")
    if status is not None and 300 <= status < 400:
        why = f"The upstream {host} redirects ({status}), which is not followed"
        return ModelError("server_error", f"{why}: start the server with the address that it leads to.")
    said = text(_detail(error).get("message")) or _broken(error) or str(error) or type(error).__name__
    return Failure(host, _hidden(said[:READ], key), error)


def _detail(error: Exception) -> Mapping[str, Any]:
    """Return the error object, if any."""
    return mapping(error.error if isinstance(error, StreamedError) else getattr(error, "body", None))


def _broken(error: Exception) -> str:
    """Return the system's message for a failed connection, because openai reports all of them as timeouts."""
    said, cause = "", error.__cause__
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            reason = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
            said = f"Connection error: {reason}."
        cause = cause.__cause__
    return said


def _hidden(said: str, key: str) -> str:
    return said.replace(key, "…") if key else said
