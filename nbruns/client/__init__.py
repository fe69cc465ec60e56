"""`Client`: one server and its resources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

from nbruns.client.credentials import TokenProvider
from nbruns.client.files import Files, ModelsOfServer, VectorStores
from nbruns.client.resources import AssistantArg, Assistants, MessagesOfThreads, ThreadArg, Threads
from nbruns.client.runs import Runs
from nbruns.client.transport import Transport
from nbruns.errors import SetupError
from nbruns.objects import Assistant
from nbruns.tools import Tool

if TYPE_CHECKING:
    from nbruns.widgets.run_view.view import RunView


class Conversation(NamedTuple):
    """An assistant, the Python functions that answer its calls, a thread, and the view of its last run."""

    assistant: Assistant
    tools: Sequence[Tool | Callable[..., Any]]
    thread: ThreadArg
    view: RunView


class Client(Transport):
    """Client of a server that implements the Assistants API: nbruns' own, Azure AI Foundry Agents (classic), and
    others.

        client = nbruns.local()                                      # nbruns' own server on this machine
        client = nbruns.Client("https://host/v1", api_key="…")       # or NBRUNS_BASE_URL and NBRUNS_API_KEY
        client = nbruns.Client("https://<resource>.services.ai.azure.com/api/projects/<project>",
                               api_version="v1", token_provider=DefaultAzureCredential())

    You can use one client from several threads, and copy it. The key and the default headers are sent to this
    server only and are never shown.

    Args:
        base_url: URL of the API, often ending in `/v1`. Default: the environment variable NBRUNS_BASE_URL.
        api_key: API key. Default: the environment variable NBRUNS_API_KEY.
        api_version: Value of the query parameter `api-version`, which Azure requires.
        token_provider: Azure credential, or function that returns a bearer token. It is called for each request.
        default_headers: Headers to send with every request, such as the subscription key of a gateway.
        timeout: Seconds to wait for a connection, and for the next bytes of an answer.
        max_retries: Maximum number of retries of a request. Only requests that are safe to repeat are retried.

    Raises:
        SetupError: No base URL is given.
        ValueError: The base URL doesn't start with `http://` or `https://`, or a header can't be sent or is one that
            nbruns sets itself (authentication, content type).
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
        self.files = Files(self)
        self.vector_stores = VectorStores(self)
        self.models = ModelsOfServer(self)
        #: The local server behind this client: see `nbruns.local`. None for every other.
        self.server: Any = None
        #: The conversation that `%%ask` continues: its last one, or the last one of `chat`.
        self.last_conversation: Conversation | None = None

    def chat(
        self,
        assistant: AssistantArg,
        thread: ThreadArg | None = None,
        *,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        auto: bool = True,
        **params: Any,
    ) -> RunView:
        """Open a conversation in the cell: the messages, and a composer below them.

            chat = client.chat(assistant, tools=[get_weather])
            chat

        Args:
            assistant: The assistant, or its id.
            thread: A thread to continue, or its id. Default: a new one.
            tools: Python functions that answer the assistant's tool calls.
            auto: Whether the functions answer without asking.
            **params: Other parameters of the API for every run, as in `client.runs.create`.

        Returns:
            A `RunView`. Its method `send(text)` does the same as the composer.

        Raises:
            NotFoundError: `assistant` is an id, and the assistant doesn't exist.
        """
        from nbruns.widgets.run_view.view import RunView

        known = self.assistants.retrieve(assistant) if isinstance(assistant, str) else assistant
        at = self.threads.create() if thread is None else thread
        tools = list(tools)
        view = RunView(self.runs, None, thread=at, tools=tools, auto=auto, assistant=known, params=params)
        self.last_conversation = Conversation(known, tools, at, view)
        return view

    def __copy__(self) -> Self:
        """Return another client of the same server, with its own connections."""
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
