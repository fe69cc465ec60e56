"""Send requests: the HTTP session, timeouts, retries and errors."""

from __future__ import annotations

import json as jsonlib
import random
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Timer, get_ident
from typing import IO, Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit

import requests
import urllib3
from pydantic_core import from_json

from nbruns import errors
from nbruns.client.connections import Connections, Session
from nbruns.client.credentials import Credentials, TokenProvider, checked_headers
from nbruns.errors import APIError
from nbruns.headers import REQUEST_IDS, retry_after
from nbruns.text import EXCERPT, JSON, MAX_VALUES, TooManyValues, excerpt, parse_json

#: Function that asks the server whether a request was executed. Returns its result, or None if it was not.
Check = Callable[[], JSON | None]

#: Status codes that mean that the server did not execute the request, so a retry is safe.
_NOT_TAKEN = frozenset({409, 429, 503})
#: Seconds after the first attempt after which requests are no longer retried.
RETRY_DEADLINE = 120.0
_POOL = 16
#: Maximum size of a JSON answer in bytes, decompressed. Lists request smaller pages if they reach it.
MAX_ANSWER_BYTES = 8 * 1024 * 1024
#: Maximum size of the event id with which a stream is resumed, in bytes. Servers refuse long headers.
MAX_EVENT_ID_BYTES = 1024
#: Maximum number of characters of an id in a path.
MAX_ID = 512
#: Maximum size of the JSON of an error in bytes.
MAX_ERROR_BYTES = 1024 * 1024

# The API has no error code for an active run. The second pattern is the error for adding a message during a run.
_ACTIVE_RUN = re.compile(r"already has an active run|while a run \S+ is active")


class Answer(NamedTuple):
    """The JSON object of a response, and the response headers."""

    payload: JSON
    headers: Mapping[str, str]


T = TypeVar("T")
#: A list sent as JSON lines: iterates over chunks of its objects.
Lines = Iterator[list[JSON]]
_JSON_LINES = "application/jsonl"


@dataclass
class Extras:
    """Which operations beyond the API a server supports: each is True until the server refuses it."""

    has_bulk: bool = True
    has_batches: bool = True


class _MaybeTaken(Exception):
    """The request may have been executed: the response was cut off, or a gateway failed."""

    def __init__(self, error: errors.NbrunsError) -> None:
        self.error = error


class Transport:
    """HTTP transport to one server: its URL, authentication and retries.

    Args:
        timeout: Seconds to wait for a connection, and for the next bytes of an answer.
        max_retries: Maximum number of retries of a request, if a retry is safe.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        api_version: str | None = None,
        token_provider: TokenProvider | None = None,
        default_headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        max_retries: int = 4,
    ) -> None:
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"base_url starts with http:// or https://, unlike {excerpt(base_url)!r}.")
        self.base_url = base_url.rstrip("/")
        self.api_version = api_version
        self.timeout = timeout
        self.max_retries = max_retries
        self._default_headers = checked_headers(default_headers)
        self._credentials = Credentials(base_url, api_key, token_provider, self._default_headers)
        self._session = Session()
        self._session.auth = self._credentials
        self._session.headers.update({"User-Agent": "nbruns", "OpenAI-Beta": "assistants=v2"})
        self._session.headers.update(self._default_headers)
        self._connections = Connections(_POOL)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._connections)
        self._over = Event()
        #: Which extensions of nbruns' own server this server supports.
        self.extras = Extras()

    def __repr__(self) -> str:
        parts = urlsplit(self.base_url)
        return f"{type(self).__name__}({parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path})"

    @property
    def api_key(self) -> str | None:
        """The API key, for use with another SDK. It is never shown."""
        return self._credentials.api_key

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def forked(self) -> Self:
        """Return a transport with the same connections that can be closed separately: see `hang_up`."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._over = Event()
        return twin

    def hang_up(self, threads: Iterable[int]) -> None:
        """Cancel the requests that these threads wait for, and send no more."""
        self._over.set()
        for thread in threads:
            self._connections.hang_up(thread)

    def redacted(self, text: object, limit: int = EXCERPT) -> str:
        """Return a text from the server for use in an error: short, on one line, and without the key or token."""
        whole = self._credentials.not_in(
            str(text)
        )  # before shortening, which could cut a key so that it isn't found
        return excerpt(whole, limit)

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """Return the request id that the server sent, for use in error messages; None if it sent none."""
        return next((self.redacted(headers[name]) for name in REQUEST_IDS if headers.get(name)), None)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: JSON | None = None,
        check: Check | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Send a request, with retries, and return the JSON object of the answer.

        Args:
            path: Path below the base URL, with quoted parts (see `path_of`).
            check: For a POST that the server may have executed: finds its result before the request is repeated.
            timeout: Maximum number of seconds for the whole call, including retries.

        Raises:
            APIError: The server answered with an error.
            ConnectionError, TimeoutError: No answer.
            LimitError: The answer is over MAX_ANSWER_BYTES.
        """

        deadline = None if timeout is None else time.monotonic() + timeout

        def once() -> Answer:
            left = None if deadline is None else min(self.timeout, max(0.01, deadline - time.monotonic()))
            with self._hung_up_at(deadline, f"{method} {path}"):
                response = self._send(method, path, params=params, json=json, timeout=left)
                with response:
                    return Answer(self._read_json(response), response.headers)

        def found() -> Answer | None:
            known = check() if check else None
            return None if known is None else Answer(known, {})

        return self._repeat(once, method, found if check else None, deadline)

    def open_list(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, json: JSON | None = None
    ) -> Answer | Lines:
        """Send a request that reads a list. Return an iterator over its objects if the server sends JSON lines,
        otherwise the page.

        Retries and raises as `request` does. The iterator raises ConnectionError if the lines are cut off.
        """

        def once() -> Answer | Lines:
            accept = {"Accept": f"{_JSON_LINES}, application/json;q=0.9"}
            response = self._send(method, path, params=params, json=json, headers=accept)
            if response.headers.get("Content-Type", "").startswith(_JSON_LINES):
                return self._lines(response)
            with response:
                return Answer(self._read_json(response), response.headers)

        return self._repeat(once, "GET", None)  # safe to retry with any method, because it only reads

    def _lines(self, response: requests.Response) -> Lines:
        rest = b""
        with response:
            for chunk in iter_chunks(response):
                whole, newline, rest_of_chunk = chunk.rpartition(b"\n")
                if not newline:
                    rest += chunk
                    if len(rest) > MAX_ANSWER_BYTES:
                        raise self._too_large(response, f"{MAX_ANSWER_BYTES:,} bytes in one line")
                    continue
                block, rest = rest + whole, rest_of_chunk
                objects = _parsed_lines(block)
                if objects is None or not all(isinstance(each, dict) for each in objects):
                    shown = self.redacted(block.decode(errors="replace"))
                    raise self._error(response, f"where JSON objects were expected: {shown}")
                yield objects
        if rest:
            raise errors.ConnectionError(f"{' '.join(_route(response))}: the list was cut off in a line.")

    def upload(
        self,
        path: str,
        fields: Mapping[str, str],
        file: IO[bytes],
        name: str,
        size: int,
        on_sent: Callable[[int], object],
        field: str = "file",
    ) -> JSON:
        """Send a form with a file, reading the file in chunks, and return the JSON object of the response.

        Args:
            fields: The other fields of the form.
            file: The file, open for reading at its beginning.
            name: Name of the file for the server.
            size: Number of bytes to send.
            on_sent: Called with the number of bytes of each piece that has been sent.
            field: Name of the file's field.

        Raises:
            APIError, ConnectionError, TimeoutError: As for `request`. Retried only if no connection was made.
        """
        begin = file.tell() if file.seekable() else 0

        def once() -> JSON:
            if file.seekable():
                file.seek(begin)
            form = _Form(fields, file, name, size, on_sent, field)
            response = self._send("POST", path, data=form, headers={"Content-Type": form.content_type})
            with response:
                return self._read_json(response)

        return self._repeat(once, "POST", None)

    def download(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of a response as they arrive.

        Raises as `request` does, or ConnectionError if the response is cut off.
        """
        response = self._repeat(lambda: self._send("GET", path), "GET", None)
        expected, count = response.headers.get("Content-Length"), 0
        with response:
            for piece in iter_chunks(response):
                count += len(piece)
                yield piece
        if expected is not None and expected.isdigit() and count < int(expected):
            raise errors.ConnectionError(
                f"GET {path}: the connection broke after {count:,} of {expected} bytes."
            )

    def open_stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: JSON | None = None,
        last_event_id: str | None = None,
        check: Check | None = None,
    ) -> requests.Response | JSON:
        """Send a request for an event stream, and return the response. The caller reads and closes it.

        If the response was lost, but `check` finds that the request was executed, return the JSON of the run
        instead. Retries and raises as `request` does.
        """
        headers: dict[str, str | bytes] = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_event_id and last_event_id.isprintable() and last_event_id == last_event_id.strip():
            headers["Last-Event-ID"] = last_event_id.encode()
            if (
                len(headers["Last-Event-ID"]) > MAX_EVENT_ID_BYTES
            ):  # without the header, the stream starts from the beginning
                del headers["Last-Event-ID"]

        def once() -> requests.Response | JSON:
            response = self._send(method, path, params=params, json=json, headers=headers)
            if "text/event-stream" not in response.headers.get("Content-Type", "text/event-stream").lower():
                with response:
                    payload = jsonlib.dumps(self._read_json(response))  # raises if the answer is an error
                    raise self._error(
                        response, f"an answer that is no event stream: {self.redacted(payload)}"
                    )
            return response

        return self._repeat(once, method, check)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: JSON | None = None,
        data: _Form | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        timeout: float | None = None,
    ) -> requests.Response:
        """Send a request once. Return the response with its body unread, or raise its error."""
        query = {k: v for k, v in (params or {}).items() if v is not None}
        if self.api_version:
            query["api-version"] = self.api_version
        seconds = self.timeout if timeout is None else timeout
        if self._over.is_set():
            raise errors.ConnectionError(f"{method} {path} was not sent: related requests were cancelled.")
        try:
            response = self._session.request(
                method,
                self.base_url + path,
                params=query,
                json=json,
                data=data,
                headers=dict(headers or {}),
                timeout=(seconds, seconds),
                stream=True,
            )
        except requests.RequestException as error:
            raise self._unsent(error, method, urlsplit(self.base_url).path + path) from error
        if response.status_code >= 300:
            with response:
                raise self._classified(response)
        return response

    def _repeat(
        self,
        once: Callable[[], T],
        method: str,
        found: Callable[[], T | None] | None,
        deadline: float | None = None,
    ) -> T:
        deadline = time.monotonic() + RETRY_DEADLINE if deadline is None else deadline
        for attempt in range(self.max_retries + 1):
            try:
                return once()
            except _MaybeTaken as maybe:
                if method != "GET":
                    if found is None:
                        raise maybe.error from maybe.__cause__
                    known = found()
                    if known is not None:
                        return known
                error = maybe.error
            except (errors.ConnectionError, APIError) as refused:
                if isinstance(refused, APIError) and not _is_repeatable(refused):
                    raise
                error = refused
            pause = _backoff(attempt, getattr(error, "retry_after", None))
            if attempt == self.max_retries or time.monotonic() + pause > deadline or self._over.wait(pause):
                raise error
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextmanager
    def _hung_up_at(self, deadline: float | None, what: str) -> Iterator[None]:
        """Close the connection at the deadline. A socket's timeout isn't enough: it restarts with each byte."""
        if deadline is None:
            yield
            return
        timer = Timer(max(0.0, deadline - time.monotonic()), self._connections.hang_up, [get_ident()])
        timer.start()
        try:
            yield
        except (APIError, _MaybeTaken) as broken:
            if time.monotonic() < deadline:
                raise
            raise errors.TimeoutError(f"{what}: the answer did not end in time. Try again.") from broken
        finally:
            timer.cancel()

    def _unsent(self, error: requests.RequestException, method: str, path: str) -> Exception:
        where = f"{method} {urlsplit(self.base_url).netloc.rpartition('@')[2]}{path}"
        if isinstance(error, requests.ConnectTimeout) or _is_refused(error):
            return errors.ConnectionError(
                f"{where}: no connection. Is the server running, and is base_url right?"
            )
        if isinstance(error, requests.Timeout):
            return _MaybeTaken(
                errors.TimeoutError(f"{where}: no answer in time. Raise timeout=…, or try again.")
            )
        if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            return _MaybeTaken(
                errors.ConnectionError(f"{where}: the connection broke before the answer came.")
            )
        return errors.ConnectionError(
            f"{where}: {type(error).__name__}. Check base_url and the proxy settings."
        )

    def _read_json(self, response: requests.Response) -> JSON:
        body, limit = bytearray(), MAX_ANSWER_BYTES if response.status_code < 300 else MAX_ERROR_BYTES
        try:
            for chunk in iter_chunks(response):
                body += chunk
                if len(body) > limit:
                    raise self._too_large(response, f"{limit:,} bytes")
        except (errors.ConnectionError, errors.TimeoutError) as broken:
            kind = requests.Timeout if isinstance(broken, errors.TimeoutError) else requests.ConnectionError
            raise self._unsent(kind(), *_route(response)) from broken
        try:
            payload = parse_json(bytes(body))
        except TooManyValues as error:
            raise self._too_large(response, f"{MAX_VALUES:,} values") from error
        except ValueError:
            payload = None
        if isinstance(payload, dict) and not (payload.get("error") and "id" not in payload):
            return payload
        if isinstance(payload, dict):
            raise self._error(response, payload["error"])
        shown = self.redacted(body.decode(errors="replace")) or "nothing"
        raise self._error(response, f"where a JSON object was expected: {shown}")

    def _too_large(self, response: requests.Response, limit: str) -> errors.NbrunsError:
        """Return the error for a response that is too large, of the class of its status if it is an error response."""
        if response.status_code >= 300:
            return self._error(response, f"an error of over {limit}, which was not read")
        method, path = _route(response)
        return errors.LimitError(
            f"{method} {path}: the answer has over {limit} and was not read. Ask for fewer objects with limit=…, "
            "and check that base_url is where such an API's server is."
        )

    def _classified(self, response: requests.Response) -> Exception:
        if response.is_redirect:
            target = self.redacted(response.headers.get("Location"))
            return self._error(
                response, f"a redirection to {target}, which is not followed: correct base_url"
            )
        try:
            payload = self._read_json(response)
            words = (payload.get(name) for name in ("error", "message", "detail"))
            error: Exception = self._error(response, next(filter(None, words), "an error without a message"))
        except (errors.NbrunsError, _MaybeTaken) as caught:
            error = caught
        maybe = isinstance(error, APIError) and response.status_code in (500, 502, 504)
        return _MaybeTaken(error) if maybe and isinstance(error, APIError) else error

    def _error(self, response: requests.Response, error: object) -> APIError:
        """Return the error for a response, of the class of its status, from its error object or the given text."""
        fields = error if isinstance(error, Mapping) else {"message": error}
        given = {name: fields[name] for name in ("code", "type", "param") if fields.get(name) is not None}
        details = {name: self.redacted(value) for name, value in given.items()}
        message = self.redacted(fields.get("message") or error, 1000)
        kind = errors.BY_STATUS.get(response.status_code)
        if kind is None:
            kind = errors.ServerError if response.status_code >= 500 else APIError
        if kind is errors.BadRequestError and _ACTIVE_RUN.search(message):
            kind = errors.ActiveRunError
        method, path = _route(response)
        made = kind(
            message,
            status=response.status_code,
            **details,
            request_id=self.request_id(response.headers),
            method=method,
            path=path,
        )
        made.retry_after = retry_after(response.headers)
        return made


def _parsed_lines(block: bytes) -> list[Any] | None:
    """Return the values of JSON lines; None if the lines are not valid JSON."""
    # Parse all lines at once as one array: JSON strings can't contain newlines.
    text = b"[" + block.replace(b"\n", b",") + b"]"
    try:
        values: list[Any] = from_json(text) if len(text) < _FAST_BYTES else parse_json(text)
    except ValueError:
        try:
            values = parse_json(text)  # which also accepts lone surrogates
        except ValueError:
            return None
    return values


#: Up to this size in bytes, JSON is parsed without counting its values, which takes half the time.
_FAST_BYTES = 1024 * 1024


class _Form:
    """A form with a file as the body of a request, read while it is sent."""

    def __init__(
        self,
        fields: Mapping[str, str],
        file: IO[bytes],
        name: str,
        size: int,
        on_sent: Callable[[int], object],
        field: str,
    ) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{_in_quotes(key)}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        head += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{_in_quotes(name)}"\r\n'
        self._head = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode("utf-8", "replace")
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._file, self._size, self._on_sent = file, size, on_sent

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        left = self._size  # if the file grows during the upload, only its original size is sent
        while left > 0 and (piece := self._file.read(min(left, 1 << 18))):
            yield piece
            left -= len(piece)
            self._on_sent(len(piece))
        yield self._tail


def _in_quotes(text: str) -> str:
    """Escape a text as browsers do in a form."""
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def path_of(*parts: object) -> str:
    """Return a path from its parts. Each part is quoted, so that no id can lead to another path.

    Raises InvalidIdError for parts that quoting can't make safe: clients, proxies and servers resolve dots, and
    some decode slashes and percent signs first.
    """
    return "".join(f"/{_quoted(part)}" for part in parts)


def _quoted(part: object) -> str:
    if (
        not isinstance(part, str)
        or part in ("", ".", "..")
        or len(part) > MAX_ID
        or not part.isprintable()
        or any(character in part for character in "/\\%")
    ):
        raise errors.InvalidIdError(
            f"{excerpt(repr(part), 80)} is not an id: nothing was sent. An id is a text of 1 to {MAX_ID} printable "
            "characters without /, \\ and %, and not just dots. Pass the id as the server gave it."
        )
    return quote(part, safe="")


def iter_chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes of a body as they arrive: `iter_content` would hold back a body that ends when the
    connection closes.

    Raises ConnectionError or TimeoutError if the body is cut off.
    """
    raw = response.raw
    try:
        while chunk := raw.read1(65536, decode_content=True):
            yield chunk
    except urllib3.exceptions.ReadTimeoutError as error:
        raise errors.TimeoutError("No more data of the answer came in time.") from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
        # Reading raises ValueError or AttributeError if another thread closes the connection.
        raise errors.ConnectionError("The connection broke.") from error


def _is_refused(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        reason = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if isinstance(error, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)):
            return True
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
    return False


def _is_repeatable(error: APIError) -> bool:
    return error.status in _NOT_TAKEN and error.code != "insufficient_quota"


def _backoff(attempt: int, wanted: float | None) -> float:
    return wanted if wanted is not None else random.uniform(0.5, 1.0) * min(0.5 * 2**attempt, 8.0)


def _route(response: requests.Response) -> tuple[str, str]:
    return response.request.method or "", urlsplit(response.request.url or "").path
