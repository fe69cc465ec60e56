"""One turn of a run: ask the model once, and convert its answer to steps, messages and events.

An interrupted turn is repeated from its start. Its steps and messages have the same ids as before, so unfinished
objects are replaced. New `created` events tell readers of the stream to start these objects again.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import mimetypes
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from nbruns.server import hosted
from nbruns.server.models import (
    Delta,
    Finish,
    Model,
    ModelError,
    Models,
    Prompt,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolUser,
    functions_due,
    questions,
)
from nbruns.server.runs import prompt, transitions
from nbruns.server.runs.toolbox import HostedContext, Toolbox
from nbruns.server.runs.transitions import Unfinished
from nbruns.server.schemas import objects
from nbruns.server.storage import files, store
from nbruns.server.storage.database import Database, Transaction
from nbruns.server.telemetry import Telemetry
from nbruns.text import JSON

_CREATED = ("thread.run.step.created", "thread.run.step.in_progress")
_MESSAGE_CREATED = (*_CREATED, "thread.message.created", "thread.message.in_progress")
#: Number of deltas after which the turn waits for the database, in case the model is faster.
_FLUSH_EVERY = 64
#: Maximum number of characters of an answer, about twice the length that any model writes, and of its tool calls.
MAX_ANSWER_CHARS, MAX_CALLS = 1_000_000, 128
#: Maximum number of calls of a run that are taken from the text of a model that can't call tools. Such models often
#: repeat code that they should only explain.
MAX_CALLS_IN_TEXT = 4
#: Maximum size of an image in bytes, as in OpenAI's API. Larger images are replaced by a note.
MAX_IMAGE_BYTES = 20 * 1024**2
#: Number of pieces after which a text is joined, because small strings take four times their size in memory.
_MAX_PIECES = 256


class Turn:
    """One turn of a run, with the answer of the model so far."""

    def __init__(
        self,
        db: Database,
        run: JSON,
        number: int,
        toolbox: Toolbox | None,
        telemetry: Telemetry,
    ) -> None:
        self._db, self._run, self._number, self._toolbox = db, run, number, toolbox
        self._telemetry = telemetry
        self._said: dict[str, list[str]] = {}
        self._message: JSON | None = None
        self._message_step: JSON = {}
        self._messages_made = 0
        self._tool_step: JSON | None = None
        self._calls: dict[int, JSON] = {}
        self._declared = hosted.Declared([], {}, [])
        #: The calls of hosted tools as the model wrote them, by id.
        self._hosted: dict[str, JSON] = {}
        #: Types of the hosted tools that the model uses in its text because it can't call tools, by name.
        self._in_text: dict[str, str] = {}
        self._images: list[JSON] = []
        self._deltas = self._length = 0

    async def work(self, models: Models) -> int | None:
        """Execute the hosted calls of the last turn, then ask the model.

        Returns the number of the next turn if the model has called hosted tools; otherwise None, because the run has
        ended or requires action."""
        if not await self._run_hosted():
            return None
        if (reason := await self._db.read(prompt.exhausted, self._run)) is not None:
            await self._end("incomplete", incomplete_details={"reason": reason})
            return None
        names = await self._db.read(prompt.resource_names, self._run)
        self._declared = await hosted.declared(self._run, names)
        question = await self._db.read(prompt.build, self._run, self._declared)
        question = replace(
            question,
            model=models.real_name(question.model),
            messages=[await self._with_images(message) for message in question.messages],
        )
        for type in set(self._types.values()):
            hosted.TOOLS[type].prepare(self._context(type))
        # In a thread, because the first use of a model can import packages for a second while other runs stream.
        model = await asyncio.to_thread(models.resolve, question.model)
        if isinstance(model, ToolUser) and not model.calls_tools:
            question = self._used_in_text(question)
        try:
            finish = await self._answer(model, question)
        except ModelError as error:
            if question.model == self._run["model"]:
                raise
            alias = f"{self._run['model']!r} stands for {question.model!r} here. "
            raise ModelError(error.code, alias + error.message) from None
        return await self._finish(finish)

    async def _answer(self, model: Model, question: Prompt) -> Finish:
        with self._telemetry.answer(self._run, question) as answer:
            async for delta in self._up_front(model, question) or model.answer(question):
                answer.delta()
                if isinstance(delta, Finish):
                    answer.finish = delta
                    return delta
                await self._take(delta)
            raise ModelError(
                "server_error", f"The model {question.model!r} stopped without finishing its answer."
            )

    def _up_front(self, model: Model, question: Prompt) -> AsyncIterator[Delta] | None:
        """Return the call of a hosted tool on behalf of a model that can't call tools, if it is the only tool due."""
        if not isinstance(model, ToolUser) or model.calls_tools:
            return None
        names = [function["name"] for function in functions_due(question)]
        said = questions(question)
        if len(names) != 1 or names[0] not in self._declared.hosted or not said:
            return None
        arguments = hosted.up_front(self._declared.hosted[names[0]][0], said[0])
        return None if arguments is None else _calling(names[0], arguments)

    def unfinished(self, usage: JSON | None = None) -> list[Unfinished]:
        """Return the unfinished step and message with their content so far."""
        made = []
        if self._message is not None:
            made += [
                Unfinished(store.messages, self._written()),
                Unfinished(store.steps, self._message_step, usage),
            ]
        if self._tool_step is not None:
            made.append(Unfinished(store.steps, self._called(), usage))
        return made

    async def _run_hosted(self) -> bool:
        """Execute the hosted calls of the last turn without a stored output. Return whether the turn continues."""
        if self._number == 1:
            return True
        run_id = self._run["id"]
        asked = await self._db.read(store.hosted_calls, run_id)
        steps = await self._db.read(store.of_run, store.steps, run_id)
        # Steps without calls belong to an interrupted attempt of this turn.
        started = [step for step in steps if step["status"] == "in_progress" and _hosted_calls(step, asked)]
        if not started:
            return True
        waiting = []
        for call in _hosted_calls(started[-1], asked):
            tool, approved = hosted.TOOLS[call["type"]], asked[call["id"]].get("approved")
            if asked[call["id"]]["output"] is not None:
                continue
            if approved is None and hosted.needs_approval(self._run, call):
                waiting.append(call)
                continue
            details = hosted.details_of(call)
            if approved is False:
                result = tool.deny(details)
            else:
                number = await self._answered(call["type"])
                context = self._context(call["type"], number, details)
                with self._telemetry.tool_call(self._run, call["id"], call["type"], details.get("name")):
                    result = await tool.run(self._run, asked[call["id"]]["arguments"], context)
            step_id = started[-1]["id"]
            if await self._db.write(transitions.answer_hosted, run_id, step_id, call["id"], result) is None:
                return False
        if waiting:
            await self._db.write(transitions.require_approval, run_id, waiting)
            return False
        return await self._db.write(transitions.complete_hosted, run_id)

    @property
    def _types(self) -> dict[str, str]:
        """The types of the hosted tools, by the names of their functions."""
        return {name: type for name, (type, _) in self._declared.hosted.items()}

    def _context(self, type: str, number: int = 0, details: JSON | None = None) -> HostedContext:
        return HostedContext(self._db, self._toolbox, self._run, type, number, details or {})

    def _used_in_text(self, question: Prompt) -> Prompt:
        """Return the prompt for a model that can't call tools, with instructions to use hosted tools in its text."""
        said = {type: hosted.TOOLS[type].instructions() for type in self._types.values()}
        self._in_text = {name: type for name, type in self._types.items() if said[type]}
        if not self._in_text:
            return question
        tools = [tool for tool in question.tools if tool["function"]["name"] not in self._in_text]
        texts = [text for type in self._in_text.values() if (text := said[type])]
        choice = question.tool_choice
        if isinstance(choice, dict) and choice["function"]["name"] in self._in_text:
            choice = "auto"
        system = {"role": "system", "content": "\n".join(texts)}
        return replace(question, tools=tools, tool_choice=choice, messages=[system, *question.messages])

    async def _call_from_text(self) -> None:
        """Add the call of a hosted tool that the model wrote in its text."""
        text = "".join(self._said.get("text", ()))
        for name, type in self._in_text.items():
            arguments = hosted.TOOLS[type].from_text(text)
            if arguments is not None and await self._answered(type) < MAX_CALLS_IN_TEXT:
                return await self._append_call(ToolCallDelta(0, None, name, arguments))

    async def _with_images(self, message: JSON) -> JSON:
        """Return a message with its image files as data URLs, which models accept."""
        if not isinstance(message["content"], list):
            return message
        parts = [
            await self._image(part["image_file"]) if part["type"] == "image_file" else part
            for part in message["content"]
        ]
        return {**message, "content": parts}

    async def _image(self, image: JSON) -> JSON:
        file = await self._db.read(store.get, files.files, image["file_id"])
        if file is None or self._toolbox is None:
            return {"type": "text", "text": f"[image {image['file_id']}, which was deleted]"}
        if file["bytes"] > MAX_IMAGE_BYTES:
            return {"type": "text", "text": f"[image {file['filename']}, which is too large]"}
        data = b"".join([piece async for piece in self._toolbox.blobs.read(file["id"])])
        kind = mimetypes.guess_type(file["filename"])[0] or "image/png"
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return {"type": "image_url", "image_url": {"url": url, "detail": image.get("detail") or "auto"}}

    async def _take(self, delta: Delta) -> None:
        if isinstance(delta, TextDelta | RefusalDelta):
            await self._append_text("text" if isinstance(delta, TextDelta) else "refusal", delta.text)
        elif isinstance(delta, ToolCallDelta):
            await self._append_call(delta)

    def _count(self, characters: int) -> None:
        """Limit the length of an answer, because an endless one would fill the database."""
        self._length += characters
        if self._length > MAX_ANSWER_CHARS:
            raise ModelError(
                "server_error", f"The model's answer is over {MAX_ANSWER_CHARS:,} characters; it was cut off."
            )

    async def _append_text(self, kind: str, text: str) -> None:
        if not text:
            return
        self._count(len(text))
        message = self._message or await self._open_message()
        first = kind not in self._said
        pieces = self._said.setdefault(kind, [])
        pieces.append(text)
        if len(pieces) > _MAX_PIECES:
            pieces[:] = ["".join(pieces)]
        index = len(self._images) + list(self._said).index(kind)
        delta = objects.content_delta(message["id"], index, kind, text, first=first)
        await self._emit("thread.message.delta", delta)

    async def _append_call(self, delta: ToolCallDelta) -> None:
        self._count(len(delta.arguments) + len(delta.id or "") + len(delta.name or ""))
        step = self._tool_step or await self._open_tool_step()
        call = self._calls.get(delta.index)
        if call is None and len(self._calls) >= MAX_CALLS:
            raise ModelError(
                "server_error", f"The model called over {MAX_CALLS} tools at once; it was cut off."
            )
        if call is None:
            call = self._calls[delta.index] = self._new_call(delta)
            opening = {"index": len(self._calls) - 1, **copy.deepcopy(call)}
            await self._emit("thread.run.step.delta", objects.tool_call_delta(step["id"], opening))
        if delta.arguments:
            index, type = list(self._calls).index(delta.index), call["type"]
            if type == "function":
                call["function"]["arguments"] += delta.arguments
                more = {"index": index, "type": type, type: {"arguments": delta.arguments}}
                await self._emit("thread.run.step.delta", objects.tool_call_delta(step["id"], more))
            elif shown := self._more_of(call, delta.arguments):
                entry = hosted.entry(call["id"], type, shown)
                more = {"index": index, **{name: entry[name] for name in entry if name != "id"}}
                await self._emit("thread.run.step.delta", objects.tool_call_delta(step["id"], more))

    def _more_of(self, call: JSON, arguments: str) -> JSON:
        asked, type = self._hosted[call["id"]], call["type"]
        asked["arguments"] += arguments
        before = hosted.details_of(call)
        now = before | hosted.TOOLS[type].describe(asked["arguments"])
        call |= hosted.entry(call["id"], type, now)
        return objects.newly_shown(before, now)

    async def _finish(self, finish: Finish) -> int | None:
        used = objects.UNKNOWN_USAGE if finish.usage is None else finish.usage
        if finish.reason == "length" and self._run["max_completion_tokens"] is None:
            # The model reached its own limit, such as its context. The run has no limit, so it isn't `incomplete`.
            counted = used.get("completion_tokens")
            after = f" after {counted:,} tokens" if counted else ""
            why = f"The model {self._run['model']!r} cut its answer off{after}, at a limit of its own."
            error = {"code": "server_error", "message": why}
            await self._end("failed", used, message_reason="max_tokens", last_error=error)
            return None
        if finish.reason == "length":
            await self._end("incomplete", used, incomplete_details={"reason": "max_completion_tokens"})
            return None
        if finish.reason == "content_filter":
            error = {"code": "invalid_prompt", "message": "The model's content filter stopped the answer."}
            await self._end("failed", used, message_reason="content_filter", last_error=error)
            return None
        if self._tool_step is None and self._in_text:
            await self._call_from_text()
        if self._tool_step is not None:
            await self._complete_message(objects.NO_USAGE)
            run_id, step = self._run["id"], self._called()
            if self._hosted:
                return await self._db.write(transitions.call_hosted, run_id, step, self._hosted, used)
            await self._db.write(transitions.require_action, run_id, step, used)
            return None
        if self._message is None:
            await self._open_message()
        run_id, message, step = self._run["id"], await self._cited(self._written()), self._message_step
        await self._db.write(transitions.complete, run_id, message, step, used)
        return None

    async def _answered(self, type: str) -> int:
        """Return the number of answered calls of a hosted tool in this run."""
        asked = await self._db.read(store.hosted_calls, self._run["id"])
        steps = await self._db.read(store.of_run, store.steps, self._run["id"])
        calls = [call for step in steps for call in _hosted_calls(step, asked) if call["type"] == type]
        return sum(asked[call["id"]]["output"] is not None for call in calls)

    async def _cited(self, message: JSON) -> JSON:
        """Return the message with the annotations of the run's hosted tools."""
        if not self._types:
            return message
        details: dict[str, list[JSON]] = {}
        paths: dict[str, dict[str, str]] = {}
        for type in set(self._types.values()):
            calls = await self._db.read(store.hosted_calls_of, self._run, type)
            paths[type] = {path: id for call in calls for path, id in call.get("paths", {}).items()}
        for step in await self._db.read(store.of_run, store.steps, self._run["id"]):
            for call in step["step_details"].get("tool_calls", []):
                if call["type"] != "function":
                    details.setdefault(call["type"], []).append(hosted.details_of(call))
        for part in message["content"]:
            if part["type"] == "text":
                part["text"]["annotations"] = hosted.citations(part["text"]["value"], details, paths)
        return message

    async def _end(self, ending: transitions.Ending, usage: JSON | None = None, **why: Any) -> None:
        await self._db.write(transitions.end, self._run["id"], ending, self.unfinished(usage), **why)

    async def _open_message(self) -> JSON:
        self._messages_made += 1
        path = (self._run["id"], self._number, "message", self._messages_made)
        now = max(store.now(), await self._db.read(store.earliest_time, self._run))
        message = objects.answer(self._run, objects.derived_id("msg", *path), now)
        details = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
        self._message_step = objects.step(self._run, objects.derived_id("step", *path), details, now)
        self._message, self._said = message, {}
        made = [Unfinished(store.steps, self._message_step), Unfinished(store.messages, message)]
        await self._db.write(transitions.save, self._run["id"], made, *_MESSAGE_CREATED)
        self._images = await self._new_images() if self._types else []
        for index, part in enumerate(self._images):
            await self._emit("thread.message.delta", objects.part_delta(message["id"], index, part))
        return message

    async def _new_images(self) -> list[JSON]:
        """Return content parts for images that the run's hosted tools created and that no message contains yet."""
        run_id = self._run["id"]
        steps = await self._db.read(store.of_run, store.steps, run_id)
        messages = await self._db.read(store.of_run, store.messages, run_id)
        shown = {
            part["image_file"]["file_id"]
            for message in messages
            if message["status"] == "completed"
            for part in message["content"]
            if part["type"] == "image_file"
        }
        made = [image for step in steps if step["status"] == "completed" for image in hosted.images(step)]
        return [{"type": "image_file", "image_file": {"file_id": id}} for id in made if id not in shown]

    async def _complete_message(self, usage: JSON) -> None:
        if self._message is not None:
            message, self._message = await self._cited(self._written()), None
            run_id, step = self._run["id"], self._message_step
            await self._db.write(transitions.complete_message, run_id, message, step, usage)

    async def _open_tool_step(self) -> JSON:
        # The text before the calls is complete. The usage is reported with the calls.
        await self._complete_message(objects.NO_USAGE)
        id = objects.derived_id("step", self._run["id"], self._number, "tool_calls")
        self._tool_step = objects.step(self._run, id, {"type": "tool_calls", "tool_calls": []}, store.now())
        await self._db.write(
            transitions.save, self._run["id"], [Unfinished(store.steps, self._tool_step)], *_CREATED
        )
        return self._tool_step

    def _new_call(self, delta: ToolCallDelta) -> JSON:
        taken = {call["id"] for call in self._calls.values()}
        derived = objects.derived_id("call", self._run["id"], self._number, len(self._calls))
        id = delta.id if delta.id and delta.id not in taken else derived
        if delta.name in self._declared.hosted:
            type, details = self._declared.hosted[delta.name]
            self._hosted[id] = {"name": delta.name, "arguments": "", "output": None, "type": type}
            return hosted.entry(id, type, details | hosted.TOOLS[type].describe(""))
        return {
            "id": id,
            "type": "function",
            "function": {"name": delta.name or "", "arguments": "", "output": None},
        }

    def _written(self) -> JSON:
        assert self._message is not None
        content = [objects.content_part(kind, "".join(pieces)) for kind, pieces in self._said.items()]
        return self._message | {"content": [*self._images, *content]}

    def _called(self) -> JSON:
        assert self._tool_step is not None
        details = {"type": "tool_calls", "tool_calls": list(self._calls.values())}
        return self._tool_step | {"step_details": details}

    async def _emit(self, name: str, payload: JSON) -> None:
        self._db.emit(self._run["id"], name, payload)
        self._deltas += 1
        if self._deltas % _FLUSH_EVERY == 0:
            await self._db.write(_nothing)


async def _calling(name: str, arguments: str) -> AsyncIterator[Delta]:
    yield ToolCallDelta(0, name=name, arguments=arguments)
    yield Finish("tool_calls", objects.NO_USAGE)


def _hosted_calls(step: JSON, asked: JSON) -> list[JSON]:
    """Return the calls of hosted tools in a step. `asked` contains those of the run, by id."""
    return [call for call in step["step_details"].get("tool_calls", []) if call["id"] in asked]


def _nothing(tx: Transaction) -> None:
    """Do nothing. Waiting for this write waits for all earlier ones."""
