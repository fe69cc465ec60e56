"""`Client`: one server and its resources."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from nbruns.client.credentials import TokenProvider
from nbruns.client.resources import Assistants, MessagesOfThreads, Threads
from nbruns.client.runs import Runs
from nbruns.client.transport import Transport
from nbruns.errors import SetupError


class Client(Transport):
    """A client of any server that speaks the Assistants API: nbruns' own, Azure AI Foundry Agents (classic), others.

        client = nbruns.local()                                      # nbruns' own server on this machine
        client = nbruns.Client("https://host/v1", api_key="…")       # or NBRUNS_BASE_URL and NBRUNS_API_KEY
        client = nbruns.Client("https://<resource>.services.ai.azure.com/api/projects/<project>",
                               api_version="v1", token_provider=DefaultAzureCredential())

    `timeout` is in seconds, for connecting and for each silence; `max_retries` counts repetitions, which are made
    only where they can't do the work twice. `default_headers` are sent with every request, such as the subscription
    key of a gateway; those that nbruns sets itself (authentication, content type) are refused. One client may be used
    from several threads, and copied. The key and the default headers are sent to this server alone and never shown.
    Raises SetupError without a base URL, ValueError for a header that can't be sent.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        api_version: str | None = None,
        token_provider: TokenProvider | None = None,
        default_headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        max_retries: int = 4,
    ) -> None:
        base_url = base_url or os.environ.get("NBRUNS_BASE_URL")
        if not base_url:
            raise SetupError(
                "No server is named. nbruns.local() starts one on this machine (so does `nbruns serve`, which prints "
                "its base URL); or pass base_url=…, or set NBRUNS_BASE_URL."
            )
        super().__init__(
            base_url,
            api_key or os.environ.get("NBRUNS_API_KEY"),
            api_version=api_version,
            token_provider=token_provider,
            default_headers=default_headers,
            timeout=timeout,
            max_retries=max_retries,
        )
        self.assistants = Assistants(self)
        self.threads = Threads(self)
        self.messages = MessagesOfThreads(self)
        self.runs = Runs(self)
        #: The local server behind this client: see `nbruns.local`. None for every other.
        self.server: Any = None

    def __copy__(self) -> Self:
        """Another client of the same server, with connections of its own."""
        twin = type(self)(
            self.base_url,
            self.api_key,
            api_version=self.api_version,
            token_provider=self._credentials.token_provider,
            default_headers=self._default_headers,
            timeout=self.timeout,
            max_retries=self.max_retries,
        )
        twin.server = self.server
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A Client can't be pickled: the pickle would hold its key. Make a client where you need it, with "
            "nbruns.Client(…) or nbruns.local(); NBRUNS_BASE_URL and NBRUNS_API_KEY reach other processes too."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()
