"""The table of all that can be asked: requests are checked with it, and /openapi.json is made of it."""

from __future__ import annotations

from starlette.responses import Response

from nbruns import __version__
from nbruns.server import answers, parameters, routes
from nbruns.server.call import Call, Operation
from nbruns.server.checks import labels
from nbruns.server.database import encode
from nbruns.server.openapi import Vocabulary, document


async def describe(call: Call) -> Response:
    return Response(_DOCUMENT, 200, media_type="application/json")


_ASSISTANT = "/v1/assistants/{assistant_id}"
_THREAD = "/v1/threads/{thread_id}"
_MESSAGE = _THREAD + "/messages/{message_id}"
_RUN = _THREAD + "/runs/{run_id}"
_ASSISTANTS, _THREADS, _MESSAGES, _RUNS, _STEPS = (
    answers.page_of(item)
    for item in (answers.ASSISTANT, answers.THREAD, answers.MESSAGE, answers.RUN, answers.STEP)
)
OPERATIONS = [
    Operation("GET", "/health", routes.health, answers.HEALTH),
    Operation("GET", "/openapi.json", describe, answers.DOCUMENT),
    Operation(
        "POST", "/v1/assistants", routes.create_assistant, answers.ASSISTANT, parameters.CREATE_ASSISTANT
    ),
    Operation("GET", "/v1/assistants", routes.list_assistants, _ASSISTANTS, query=parameters.LIST),
    Operation("GET", _ASSISTANT, routes.get_assistant, answers.ASSISTANT),
    Operation("POST", _ASSISTANT, routes.update_assistant, answers.ASSISTANT, parameters.UPDATE_ASSISTANT),
    Operation("DELETE", _ASSISTANT, routes.delete_assistant, answers.deleted("assistant")),
    Operation("POST", "/v1/threads", routes.create_thread, answers.THREAD, parameters.CREATE_THREAD),
    Operation("GET", "/v1/threads", routes.list_threads, _THREADS, query=parameters.LIST),
    Operation(
        "POST",
        "/v1/threads/runs",
        routes.create_thread_and_run,
        answers.RUN,
        parameters.CREATE_THREAD_AND_RUN,
    ),
    Operation("GET", _THREAD, routes.get_thread, answers.THREAD),
    Operation("POST", _THREAD, routes.update_thread, answers.THREAD, parameters.UPDATE_THREAD),
    Operation("DELETE", _THREAD, routes.delete_thread, answers.deleted("thread")),
    Operation(
        "POST", _THREAD + "/messages", routes.create_message, answers.MESSAGE, parameters.CREATE_MESSAGE
    ),
    Operation("GET", _THREAD + "/messages", routes.list_messages, _MESSAGES, query=parameters.LIST_MESSAGES),
    Operation("GET", _MESSAGE, routes.get_message, answers.MESSAGE),
    Operation("POST", _MESSAGE, routes.update_message, answers.MESSAGE, parameters.UPDATE),
    Operation("DELETE", _MESSAGE, routes.delete_message, answers.deleted("thread.message")),
    Operation(
        "POST", _THREAD + "/runs", routes.create_run, answers.RUN, parameters.CREATE_RUN, parameters.INCLUDE
    ),
    Operation("GET", _THREAD + "/runs", routes.list_runs, _RUNS, query=parameters.LIST),
    Operation("GET", "/v1/runs", routes.list_all_runs, _RUNS, query=parameters.LIST_RUNS),
    Operation("GET", _RUN, routes.get_run, answers.RUN),
    Operation("POST", _RUN, routes.update_run, answers.RUN, parameters.UPDATE),
    Operation("POST", _RUN + "/cancel", routes.cancel_run, answers.RUN),
    Operation(
        "POST",
        _RUN + "/submit_tool_outputs",
        routes.submit_tool_outputs,
        answers.RUN,
        parameters.SUBMIT_TOOL_OUTPUTS,
    ),
    Operation("GET", _RUN + "/stream", routes.rejoin_run, None),
    Operation("GET", _RUN + "/steps", routes.list_steps, _STEPS, query=parameters.LIST | parameters.INCLUDE),
    Operation("GET", _RUN + "/steps/{step_id}", routes.get_step, answers.STEP, query=parameters.INCLUDE),
]

VOCABULARY = Vocabulary(
    schemas={
        **answers.NAMED,
        "CreateMessageRequest": parameters.CREATE_MESSAGE.schema,
        "CreateThreadRequest": parameters.CREATE_THREAD.schema,
        "AssistantToolsFunction": parameters.TOOL.schema,
        "AssistantsApiResponseFormatOption": parameters.RESPONSE_FORMAT.schema,
        "AssistantsApiToolChoiceOption": parameters.TOOL_CHOICE.schema,
        "TruncationObject": parameters.TRUNCATION_STRATEGY.schema,
        "ToolResources": parameters.TOOL_RESOURCES.schema,
        "Metadata": labels.schema,
    },
    events=answers.EVENTS,
    error=answers.ERROR,
)
_DOCUMENT = encode(document(OPERATIONS, VOCABULARY, __version__))
