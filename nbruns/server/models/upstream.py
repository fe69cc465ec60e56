"""Models of an upstream, over Chat Completions or Responses, through the package openai."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote, urlsplit

from nbruns.errors import SetupError, install_command
from nbruns.server.models import truncation
from nbruns.server.models.chat_completions import CHAT
from nbruns.server.models.endpoint import Endpoint, StreamedError, items, mapping, text
from nbruns.server.models.failures import Failure, failure
from nbruns.server.models.protocol import Delta, ModelError, Prompt
from nbruns.server.models.responses import RESPONSES
from nbruns.text import JSON, excerpt

#: Environment variables that can contain the API key, in order of precedence. There is no other way to pass it.
KEYS = ("NBRUNS_UPSTREAM_API_KEY", "OPENAI_API_KEY")

#: The endpoints, by their names in the settings.
ENDPOINTS = {"chat": CHAT, "responses": RESPONSES}

#: Statuses that mean that the upstream lacks the endpoint, or doesn't support it for this model.
ABSENT = (404, 405, 501)

#: Parameters that every run has, and their defaults. Some models refuse them even with the default value.
DEFAULTS: JSON = {"temperature": 1.0, "top_p": 1.0, "parallel_tool_calls": True}

LONGEST_PAUSE = 30.0
CONNECT_SECONDS = 10.0
#: Timeouts in seconds for listing the upstream's models, and for checking whether a model exists.
LIST_SECONDS, CHECK_SECONDS = 5.0, 2.0
#: Seconds for which the result of such a check is cached.
KNOWN_SECONDS = 300.0
#: Maximum number of cached results.
_MOST_KNOWN = 1000


@dataclass(frozen=True)
class Attempt:
    """An attempt to get an answer: the endpoint, the omitted parameters, and the number of earlier pauses."""

    prompt: Prompt
    endpoint: Endpoint = CHAT
    left_out: frozenset[str] = frozenset()
    pauses: int = 0
    instead_of: Failure | None = None


class Upstream:
    """Every model of the endpoint at `base_url`, such as `http://127.0.0.1:11434/v1`.

    `api` is "chat" for Chat Completions or "responses" for Responses. By default it is detected for each model:
    Chat Completions first, then Responses if the former doesn't exist or says that the latter must be used. The
    order matters because every server has Chat Completions, while many Responses endpoints are younger and less
    complete (llama.cpp's ignores response formats and reports truncated answers as complete).

    The key comes from NBRUNS_UPSTREAM_API_KEY or OPENAI_API_KEY in the environment and is sent to this endpoint
    only. An endpoint without authentication gets a placeholder.

    Until the first delta arrives, transient failures are retried `max_retries` times and rate limits until the
    run's deadline, no sooner than `Retry-After`. If a conversation is too long for the model, messages in its
    middle are left out. If the endpoint refuses a parameter that has its default value, the parameter is left out.
    """

    def __init__(
        self, base_url: str, *, api: str | None = None, max_retries: int = 2, timeout: float = 600
    ) -> None:
        if missing := [name for name in ("openai", "aiohttp") if find_spec(name) is None]:
            raise SetupError(
                f"An upstream is asked through the package {missing[0]}, which is missing: "
                f"{install_command('upstream')}"
            )
        from openai import AsyncOpenAI, DefaultAioHttpClient, Timeout

        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SetupError(
                "The upstream must be the URL of an endpoint, such as http://127.0.0.1:11434/v1."
            )
        if api is not None and api not in ENDPOINTS:
            raise SetupError("The upstream's API must be chat or responses, or left out to be found out.")
        self.host = parts.hostname + (f":{parts.port}" if parts.port else "")
        self._api = ENDPOINTS[api] if api else None
        self._retries = max_retries
        self._ways: dict[str, tuple[Endpoint, frozenset[str]]] = {}
        #: Times of the last successful checks whether a model exists, by model.
        self._asked_for: dict[str, float] = {}
        self._key = next((key for name in KEYS if (key := os.environ.get(name, "").strip())), "")
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=Timeout(timeout, connect=CONNECT_SECONDS),
            # openai's default HTTP client takes as much time per token as everything else together.
            http_client=DefaultAioHttpClient(
                follow_redirects=False,  # redirects would send the key and the conversation to another host
                event_hooks={"response": [self._bound]},
            ),
            # Uncompressed responses can't expand to gigabytes.
            default_headers={"Accept-Encoding": "identity"},
        )

    async def _bound(self, response: Any) -> None:
        """Limit the number of bytes read from a response."""
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ModelError("server_error", f"The upstream {self.host} packed its answer, unasked.")
        most = MAX_ANSWER_BYTES if response.status_code == 200 else MAX_ERROR_BYTES
        # There are two HTTP libraries, and each only accepts streams of its own base class.
        base = next(each for each in type(response.stream).__mro__ if each.__name__ == "AsyncByteStream")
        bounded = type("Bounded", (_Bounded, base), {})
        response.stream = bounded(response.stream, self.host, most)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def names(self) -> list[str]:
        """Return the names of the upstream's models; an empty list if it doesn't list them."""
        from openai import OpenAIError

        try:
            async with asyncio.timeout(LIST_SECONDS):
                listed = await self._client.get("/models", cast_to=object)
        except (OpenAIError, ModelError, TimeoutError, ValueError):
            return []
        models = items(mapping(listed).get("data"))[:1000]
        return [name[:256] for model in models if (name := text(model.get("id")))]

    async def lacks(self, model: str) -> str | None:
        """Return why the upstream has no model with this name; None if it has one, or if that is unknown.

        The list of models is not used, because many upstreams accept more names than they list.
        """
        if (
            model in self._ways
            or time.monotonic() - self._asked_for.get(model, -KNOWN_SECONDS) < KNOWN_SECONDS
        ):
            return None
        from openai import OpenAIError

        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._client.get(f"/models/{quote(model, safe='/')}", cast_to=object)
        except (OpenAIError, ModelError, TimeoutError, ValueError) as error:
            failed = failure(error, self.host, self._key, MEND)
            if isinstance(failed, Failure) and failed.says_model_is_unknown:
                return self._no_model(model, failed)
        if len(self._asked_for) >= _MOST_KNOWN:
            self._asked_for.clear()
        self._asked_for[model] = time.monotonic()
        return None

    def _no_model(self, model: str, failed: Failure) -> str:
        why = f"The upstream {self.host} has no model {excerpt(repr(model))}"
        return f"{why} ({excerpt(failed.said)}). Name one that it has."

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        """Yield the upstream's answer as it arrives."""
        endpoint, left_out = self._ways.get(prompt.model, (self._api or CHAT, frozenset()))
        attempt = Attempt(prompt, endpoint, left_out)
        while True:
            begun = False
            try:
                async with aclosing(self._asked(attempt)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
                return
            except Exception as error:
                failed = failure(error, self.host, self._key, MEND)
            if begun or not isinstance(failed, Failure):
                raise failed  # outside the except block, because the original error's request contains the key
            attempt = await self._next(attempt, failed)

    async def _asked(self, attempt: Attempt) -> AsyncGenerator[Delta]:
        from openai import AsyncStream

        body = attempt.endpoint.body(attempt.prompt)
        body = {name: value for name, value in body.items() if name not in attempt.left_out}
        reading = attempt.endpoint.reading(body)
        # Events are read as JSON. openai's types take thirty times as long to create, and fail if servers omit
        # fields.
        stream: AsyncStream[Any] = await self._client.post(
            attempt.endpoint.path, body=body, cast_to=object, stream=True, stream_cls=AsyncStream[object]
        )
        self._ways[attempt.prompt.model] = (attempt.endpoint, attempt.left_out)
        async with stream as events:
            async for event in events:
                if not isinstance(event, dict):
                    raise StreamedError(f"it sent {type(event).__name__} where an object was due")
                for delta in reading.read(event):
                    yield delta
        if reading.finish is None:
            raise ModelError(
                "server_error", f"The upstream {self.host} ended its answer without finishing it."
            )
        yield reading.finish

    async def _next(self, attempt: Attempt, failed: Failure) -> Attempt:
        """Return the next attempt after a failure, or raise the failure."""
        if attempt.instead_of is not None and failed.status in ABSENT:
            failed = attempt.instead_of
            if not failed.is_unknown_model:
                raise failed
        if failed.is_unknown_model and (self._api is not None or attempt.endpoint is not CHAT):
            raise ModelError("invalid_prompt", self._no_model(attempt.prompt.model, failed))
        if self._is_elsewhere(attempt, failed):
            return replace(attempt, endpoint=RESPONSES, left_out=frozenset(), instead_of=failed)
        if _was_default(attempt, failed.param):
            return replace(attempt, left_out=attempt.left_out | {failed.param})
        if failed.is_too_long:
            messages = truncation.shorter(attempt.prompt.messages)
            if len(messages) < len(attempt.prompt.messages):
                return replace(attempt, prompt=replace(attempt.prompt, messages=messages))
        if (pause := _pause(attempt, failed, self._retries)) is not None:
            await asyncio.sleep(pause)
            return replace(attempt, pauses=attempt.pauses + 1)
        raise failed

    def _is_elsewhere(self, attempt: Attempt, failed: Failure) -> bool:
        if self._api is not None or attempt.endpoint is not CHAT:
            return False
        return failed.status in ABSENT or (failed.status == 400 and "/responses" in failed.said)


class _Bounded:
    """The bytes of a response, limited in total and per event."""

    def __init__(self, stream: Any, host: str, most: int) -> None:
        self._stream, self._host, self._most = stream, host, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        whole, event, before = 0, 0, b""
        async for chunk in self._stream:
            whole += len(chunk)
            ended = _EVENT_END.search(joined := before + chunk)
            event = len(joined) if ended else event + len(chunk)
            before = chunk[-3:]
            if whole > self._most or event > MAX_EVENT_BYTES:
                most = (
                    f"{MAX_EVENT_BYTES:,} bytes in one event"
                    if whole <= self._most
                    else f"{self._most:,} bytes"
                )
                raise ModelError(
                    "server_error", f"The upstream {self._host} sent over {most}; it was cut off."
                )
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


#: Maximum number of bytes that are read of an answer, of one of its events, and of an error.
MAX_ANSWER_BYTES, MAX_EVENT_BYTES, MAX_ERROR_BYTES = 64 * 1024**2, 8 * 1024**2, 1024**2
_EVENT_END = re.compile(rb"\n\n|\r\r|\n\r\n")

MEND = f"set {KEYS[0]} to its key where the server is started, and start it again"


def _was_default(attempt: Attempt, param: str) -> bool:
    """Whether the parameter that the upstream refuses has its default value, so that it can be omitted."""
    if param not in DEFAULTS or param in attempt.left_out:
        return False
    return bool(getattr(attempt.prompt, param) == DEFAULTS[param])


def _pause(attempt: Attempt, failed: Failure, retries: int) -> float | None:
    """Return the seconds until the next attempt; None if there is none, or the run would expire first."""
    lasting = failed.is_rate_limit and attempt.prompt.deadline is not None
    if not lasting and (attempt.pauses >= retries or not failed.may_pass):
        return None
    pause = max(failed.wait or 0.0, min(0.5 * 2.0**attempt.pauses, LONGEST_PAUSE))
    deadline = attempt.prompt.deadline
    return pause if deadline is None or time.time() + pause < deadline else None
