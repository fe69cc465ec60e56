"""Authentication: send the API key or token in the header that the server expects, and redact it elsewhere."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from nbruns.text import excerpt

#: Source of the bearer token of each request: a function that returns one, or a credential of azure-identity.
TokenProvider = Callable[[], str] | Any

_AZURE_SCOPE = "https://ai.azure.com/.default"
_KEY_HEADER_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com")
#: Number of recent tokens to redact, at least the number of concurrent requests.
_TOKENS = 16
#: Header values of at least this many characters are treated as secrets.
_SECRET_LENGTH = 8
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Headers that nbruns sets: they authenticate, or determine how the request and the response are read.
_OWN_HEADERS = frozenset(
    {
        *("authorization", "api-key", "host", "connection", "upgrade", "expect", "te", "trailer"),
        *("content-type", "content-length", "content-encoding", "transfer-encoding"),
        *("accept", "accept-encoding", "last-event-id"),
    }
)


class Credentials:
    """Add authentication to the requests to one server.

    Used as the session's `auth`, which also keeps requests from reading credentials from ~/.netrc.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        token_provider: TokenProvider | None,
        headers: Mapping[str, str],
    ) -> None:
        """`headers` are sent too; their values are treated as secrets."""
        self.api_key = _sendable(api_key, "api_key") if api_key else None
        self.token_provider = token_provider
        self._tokens: deque[str] = deque(maxlen=_TOKENS)
        words = {word for value in headers.values() for word in (value, *value.split())}
        # Redacting short words would make texts unreadable.
        self._in_headers = sorted(
            (word for word in words if len(word) >= _SECRET_LENGTH), key=len, reverse=True
        )
        parts = urlsplit(base_url)
        self._by_key_header = (parts.hostname or "").endswith(_KEY_HEADER_HOSTS) or "/openai" in parts.path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.token_provider is not None:
            request.headers["Authorization"] = f"Bearer {self._token()}"
        elif self.api_key and self._by_key_header:
            request.headers["api-key"] = self.api_key
        elif self.api_key:
            request.headers["Authorization"] = f"Bearer {self.api_key}"
        return request

    def not_in(self, text: str) -> str:
        """Return a text from the server without keys and tokens. Some servers quote a key that they reject."""
        for secret in filter(None, (self.api_key, *self._tokens, *self._in_headers)):
            text = text.replace(secret, "[not shown]")
        return text

    def _token(self) -> str:
        provider: Any = self.token_provider
        token = provider() if callable(provider) else provider.get_token(_AZURE_SCOPE).token
        if not isinstance(token, str) or not token:
            raise TypeError(f"token_provider returned {type(token).__name__}, not a token.")
        token = _sendable(token, "The token of token_provider")
        self._tokens.append(token)
        return token


def checked_headers(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the default headers to send. Raises ValueError or TypeError for an invalid one, without its value."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"default_headers is a dict of names and texts, not {type(given).__name__}.")
    headers = {}
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"default_headers is a dict of names and texts, and {excerpt(repr(name), 80)} is not."
            )
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{excerpt(repr(name), 80)} is not a valid header name.")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(
                f"default_headers can't set {name}: nbruns sets it. For authentication pass api_key=… or "
                "token_provider=…."
            )
        headers[name] = _sendable(value, f"The value of {name} in default_headers")
    return headers


def _sendable(secret: str, what: str) -> str:
    """Return a secret as a header value. Raises ValueError, because http.client's error would quote the secret."""
    stripped = secret.strip()  # a key read from a file can end with a newline
    if not (stripped.isascii() and stripped.isprintable()):
        raise ValueError(
            f"{what} has characters that a header can't contain. Check that it is the complete value and nothing else."
        )
    return stripped
