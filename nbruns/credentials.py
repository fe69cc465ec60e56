"""Who we are to a server: a key or a token, in the header that the server wants, and nowhere else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests

#: Gives a bearer token per request: a callable, or an azure-identity credential.
TokenProvider = Callable[[], str] | Any

_AZURE_SCOPE = "https://ai.azure.com/.default"
_KEY_HEADER_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com")
#: As many as there can be requests under way.
_TOKENS = 16


class Credentials:
    """Signs requests to one server.

    As a session's `auth` it also keeps requests from taking another one out of ~/.netrc.
    """

    def __init__(self, base_url: str, api_key: str | None, token_provider: TokenProvider | None) -> None:
        self.api_key = _sendable(api_key, "api_key") if api_key else None
        self._provider = token_provider
        self._tokens: deque[str] = deque(maxlen=_TOKENS)
        parts = urlsplit(base_url)
        self._by_key_header = (parts.hostname or "").endswith(_KEY_HEADER_HOSTS) or "/openai" in parts.path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._provider is not None:
            request.headers["Authorization"] = f"Bearer {self._token()}"
        elif self.api_key and self._by_key_header:
            request.headers["api-key"] = self.api_key
        elif self.api_key:
            request.headers["Authorization"] = f"Bearer {self.api_key}"
        return request

    def not_in(self, text: str) -> str:
        """A server's words without the key or token in them: some name the one that they don't accept."""
        for secret in filter(None, (self.api_key, *self._tokens)):
            text = text.replace(secret, "[not shown]")
        return text

    def _token(self) -> str:
        provider: Any = self._provider
        token = provider() if callable(provider) else provider.get_token(_AZURE_SCOPE).token
        if not isinstance(token, str) or not token:
            raise TypeError(f"token_provider gave {type(token).__name__}, where a token was expected.")
        token = _sendable(token, "The token of token_provider")
        self._tokens.append(token)
        return token


def _sendable(secret: str, what: str) -> str:
    """A secret as a header can carry it: http.client's own error would show it."""
    stripped = secret.strip()  # a key that is read from a file ends with a line break
    if not (stripped.isascii() and stripped.isprintable()):
        raise ValueError(
            f"{what} has characters that no header can carry: is it the whole key, and only that?"
        )
    return stripped
