"""The cell magic `%%ask`: send the text of a cell to an assistant, and display the run.

`%load_ext nbruns` loads it.
"""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from nbruns.client import Client, Conversation
from nbruns.local_server import local
from nbruns.text import JSON
from nbruns.tools import Tool, as_tool

if TYPE_CHECKING:
    from nbruns.widgets.run_view.view import RunView


@magics_class
class AskMagic(Magics):
    """The `%%ask` cell magic, and the assistants that it created."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._names: JSON = shell.user_ns
        self._made: JSON = {}

    @magic_arguments()
    @argument("assistant", nargs="?", help="variable or id of an assistant (default: a new one)")
    @argument("-m", "--model", help="model of the new assistant, or override of the assistant's model")
    @argument("-i", "--instructions", help="instructions, in quotes")
    @argument(
        "-t", "--tool", action="append", default=[], help="function defined in the notebook; repeatable"
    )
    @argument("-a", "--auto", action="store_true", help="answer tool calls automatically")
    @argument("--max-rounds", type=int, help="with --auto: maximum number of rounds (default: 50)")
    @argument("--max-calls", type=int, help="with --auto: maximum number of tool calls (default: 500)")
    @argument("--thread", help="variable of the thread to continue (created if missing), or its id")
    @argument(
        "-n", "--new", action="store_true", help="start a new thread instead of continuing the last one"
    )
    @argument("-w", "--wait", action="store_true", help="wait until the run ends; the form stays usable")
    @argument("-o", "--out", help="variable to assign the RunView to")
    @argument("-c", "--client", help="variable of the Client (default: `client`, or nbruns.local())")
    @cell_magic
    def ask(self, line: str, cell: str) -> RunView | None:
        """Ask an assistant, and display its run live.

            %%ask --model demo --tool get_weather
            What should I wear in Oslo?

        The next `%%ask` cell waits for the run and continues the conversation. Without other options, it asks the same
        assistant. `--new` starts a new thread. Returns the RunView; `--out name` assigns it to a variable.
        """
        options = _options(self.ask, line)
        message = cell.strip()
        if not message:
            raise UsageError("%%ask needs a message in the lines below it.")
        client = self._client(options.client)
        last = client.last_conversation
        if last is not None and not (
            options.assistant or options.model or options.instructions or options.tool
        ):
            assistant, tools = last.assistant, [as_tool(tool) for tool in last.tools]
        else:
            assistant, tools = self._assistant(client, options)
        goes_on = last is not None and not options.new and not options.thread
        if last is not None and goes_on and last.assistant.id == assistant.id:
            thread = last.thread
        else:
            thread = self._thread(client, options.thread)
        if last is not None and thread is last.thread and last.view.is_active:
            last.view.wait()  # a thread can have only one active run
        client.messages.create(thread, message)
        overrides = (
            {"model": options.model, "instructions": options.instructions} if options.assistant else {}
        )
        limits = {"max_rounds": options.max_rounds, "max_calls": options.max_calls}
        sent = {name: value for name, value in overrides.items() if value}
        sent |= {name: limit for name, limit in limits.items() if limit is not None}
        view: RunView = client.runs.watch(thread, assistant, tools=tools, auto=options.auto, **sent)
        client.last_conversation = Conversation(assistant, tools, thread, view)
        if options.out:
            self._names[options.out] = view
        if not options.wait:
            return view
        display(view)
        view.wait()
        return None

    def _client(self, name: str | None) -> Client:
        found = self._names.get(name or "client")
        if isinstance(found, Client):
            return found
        if name:
            raise UsageError(f"{name} is not an nbruns.Client. Create one first: {name} = nbruns.local()")
        return local()

    def _assistant(self, client: Client, options: Namespace) -> tuple[Any, list[Tool]]:
        tools = [self._tool(name) for name in options.tool]
        if not options.assistant:
            return self._new_assistant(client, options, tools), tools
        assistant = self._names.get(options.assistant, options.assistant)
        if isinstance(assistant, str):
            assistant = client.assistants.retrieve(assistant)
        return assistant, tools or self._tools_of(assistant)

    def _new_assistant(self, client: Client, options: Namespace, tools: list[Tool]) -> Any:
        if not options.model and client.server is None:
            raise UsageError("%%ask needs an assistant, or --model NAME to create one.")
        wanted = {
            "model": options.model or "demo",
            "instructions": options.instructions,
            "tools": [tool.to_dict() for tool in tools],
        }
        key = json.dumps([client.base_url, wanted])
        if key not in self._made:
            self._made[key] = client.assistants.create(name="%%ask", **wanted)
        return self._made[key]

    def _tool(self, name: str) -> Tool:
        function = self._names.get(name)
        if not callable(function):
            raise UsageError(f"No function {name} in this notebook. Define it above this cell.")
        return as_tool(function)

    def _tools_of(self, assistant: Any) -> list[Tool]:
        """Return the notebook's functions declared with @nbruns.tool whose names are among the assistant's tools."""
        names = [tool.get("function", {}).get("name") for tool in assistant.tools or ()]
        return [self._names[name] for name in names if isinstance(self._names.get(name), Tool)]

    def _thread(self, client: Client, name: str | None) -> Any:
        if name and name not in self._names and not name.isidentifier():
            raise UsageError(f"{name} is neither a variable nor the id of a thread.")
        if name is None or (name not in self._names and not name.startswith("thread_")):
            thread = client.threads.create()
            if name:
                self._names[name] = thread
            return thread
        return self._names.get(name, name)


def _options(magic: Any, line: str) -> Namespace:
    """Parse the options of the line. `parse_argstring` would keep the quotes around values with spaces."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%%ask can't parse its line: {error}.") from None
    options: Namespace = magic.parser.parse_args(words)
    return options


def register(shell: InteractiveShell) -> None:
    """Add `%%ask` to a notebook."""
    shell.register_magics(AskMagic)
