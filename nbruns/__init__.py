"""Explore, watch and answer assistant runs from a notebook.

    import nbruns

    client = nbruns.local()                       # nbruns' own server, on this machine
    assistant = client.assistants.create(model="demo", tools=[get_weather])
    thread = client.threads.create("What should I wear in Oslo?")
    client.runs.watch(thread, assistant, tools=[get_weather])

The public names are listed below. Each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "client": ("Client",),
    "errors": (
        "APIError",
        "ActiveRunError",
        "AuthenticationError",
        "BadRequestError",
        "ConflictError",
        "ConnectionError",
        "ForkError",
        "InvalidIdError",
        "LimitError",
        "NbrunsError",
        "NotFoundError",
        "PermissionDeniedError",
        "RateLimitError",
        "RunFailed",
        "ServerError",
        "SetupError",
        "StreamError",
        "TimeoutError",
        "ToolError",
    ),
    "frames.accessor": (
        "messages_frame",
        "nested_from_json",
        "nested_to_json",
        "runs_frame",
        "steps_frame",
        "tool_calls_frame",
    ),
    "frames.sources": ("to_jsonl",),
    "local_server": ("local",),
    "client.stream": ("Event", "RunStream"),
    "objects": (
        "Assistant",
        "File",
        "Message",
        "Model",
        "Run",
        "RunStep",
        "Thread",
        "VectorStore",
        "VectorStoreFile",
    ),
    "snapshot": ("RunSnapshot",),
    "tools": ("Tool", "tool"),
    "widgets.compare": ("Comparison", "compare"),
    "tools.mcp": ("mcp_tools",),
    "widgets.run_view.view": ("RunView",),
    "widgets.runs_table.table": ("RunsTable",),
    "widgets.form.form": ("ToolOutputsForm",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from nbruns.client import Client as Client
    from nbruns.client.stream import Event as Event
    from nbruns.client.stream import RunStream as RunStream
    from nbruns.errors import ActiveRunError as ActiveRunError
    from nbruns.errors import APIError as APIError
    from nbruns.errors import AuthenticationError as AuthenticationError
    from nbruns.errors import BadRequestError as BadRequestError
    from nbruns.errors import ConflictError as ConflictError
    from nbruns.errors import ConnectionError as ConnectionError
    from nbruns.errors import ForkError as ForkError
    from nbruns.errors import InvalidIdError as InvalidIdError
    from nbruns.errors import LimitError as LimitError
    from nbruns.errors import NbrunsError as NbrunsError
    from nbruns.errors import NotFoundError as NotFoundError
    from nbruns.errors import PermissionDeniedError as PermissionDeniedError
    from nbruns.errors import RateLimitError as RateLimitError
    from nbruns.errors import RunFailed as RunFailed
    from nbruns.errors import ServerError as ServerError
    from nbruns.errors import SetupError as SetupError
    from nbruns.errors import StreamError as StreamError
    from nbruns.errors import TimeoutError as TimeoutError
    from nbruns.errors import ToolError as ToolError
    from nbruns.frames.accessor import messages_frame as messages_frame
    from nbruns.frames.accessor import nested_from_json as nested_from_json
    from nbruns.frames.accessor import nested_to_json as nested_to_json
    from nbruns.frames.accessor import runs_frame as runs_frame
    from nbruns.frames.accessor import steps_frame as steps_frame
    from nbruns.frames.accessor import tool_calls_frame as tool_calls_frame
    from nbruns.frames.sources import to_jsonl as to_jsonl
    from nbruns.local_server import local as local
    from nbruns.objects import Assistant as Assistant
    from nbruns.objects import File as File
    from nbruns.objects import Message as Message
    from nbruns.objects import Model as Model
    from nbruns.objects import Run as Run
    from nbruns.objects import RunStep as RunStep
    from nbruns.objects import Thread as Thread
    from nbruns.objects import VectorStore as VectorStore
    from nbruns.objects import VectorStoreFile as VectorStoreFile
    from nbruns.snapshot import RunSnapshot as RunSnapshot
    from nbruns.tools import Tool as Tool
    from nbruns.tools import tool as tool
    from nbruns.tools.mcp import mcp_tools as mcp_tools
    from nbruns.widgets.compare import Comparison as Comparison
    from nbruns.widgets.compare import compare as compare
    from nbruns.widgets.form.form import ToolOutputsForm as ToolOutputsForm
    from nbruns.widgets.run_view.view import RunView as RunView
    from nbruns.widgets.runs_table.table import RunsTable as RunsTable


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nbruns' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"nbruns.{_MODULE_OF[name]}"), name)
    return value


def load_ipython_extension(shell: Any) -> None:
    """Register the cell magic `%%ask`. IPython calls this for `%load_ext nbruns`."""
    import_module("nbruns.magic").register(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
