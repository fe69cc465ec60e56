"""The schema of each event's data, by the event's name, except for `done`."""

from __future__ import annotations

from typing import get_args

from nbruns.server.schemas.base import Object
from nbruns.server.schemas.runs import ACTIVE, ENDED, RunObject, RunStepDeltaObject, RunStepObject, StepStatus
from nbruns.server.schemas.threads import MessageDeltaObject, MessageObject, MessageStatus, ThreadObject

EVENTS: dict[str, type[Object]] = {
    "thread.created": ThreadObject,
    **{f"thread.run.{status}": RunObject for status in ("created", *ACTIVE, *ENDED)},
    **{f"thread.run.step.{status}": RunStepObject for status in ("created", *get_args(StepStatus))},
    "thread.run.step.delta": RunStepDeltaObject,
    **{f"thread.message.{status}": MessageObject for status in ("created", *get_args(MessageStatus))},
    "thread.message.delta": MessageDeltaObject,
}
