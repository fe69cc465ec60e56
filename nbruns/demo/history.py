"""Generate a history of a small company: assistants, threads, messages, runs and steps.

The same seed and end create the same history. All runs have ended. It contains typical events of a month: working days
and nights, a change of models, an outage, a tool that becomes slow, truncated answers, unanswered tool calls.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from nbruns.demo.conversations import FILLINGS, MODELS, SCENES, Call, Scene
from nbruns.server.schemas import objects
from nbruns.server.schemas.threads import text_content
from nbruns.server.storage import migrations, store
from nbruns.server.storage.database import Database
from nbruns.text import JSON

_HOUR, _DAY = 3600, 86400
_LIFETIME = 600
#: Seconds before the end of the history after which no thread begins, so that all runs have ended by then.
_MARGIN = _HOUR
#: Outage of gpt-4o-mini: seconds before the end, and duration.
_OUTAGE_MODEL, _OUTAGE_FROM, _OUTAGE_FOR = "gpt-4o-mini", 8 * _DAY + 10 * _HOUR, 5 * _HOUR
#: The tool that becomes slow: its name, seconds before the end from which on it is slow, and the factor.
_SLOW_CALL, _SLOW_FROM, _SLOWER = "query_warehouse", 6 * _DAY, 4.0
#: Number of rows per insert.
_TOGETHER = 2000

_ERRORS = {
    "server_error": "The server had an error while processing your request. Sorry about that!",
    "rate_limit_exceeded": "Rate limit reached for {model}: Limit 30000 TPM, Used 29112, Requested 2140. "
    "Please try again in 2.5s.",
    "invalid_prompt": "The prompt was flagged as potentially violating the usage policy.",
}


def write_history(
    database_url: str, *, runs: int, days: float = 30, until: datetime | None = None, seed: int = 1
) -> int:
    """Write a history into a database.

    Args:
        database_url: SQLAlchemy URL.
        runs: Number of runs.
        days: Length in days.
        until: End of the history. Default: now.
        seed: The same seed and end create the same history. An existing one is not written again.

    Returns:
        The number of runs written.

    Raises:
        SetupError: The database is not writable.
    """
    database = Database(database_url, store.EventLog())
    try:
        migrations.prepare(database.engine)
        with database.engine.connect().execution_options(writes=True) as conn, conn.begin():
            if store.get(conn, store.assistants, _History(seed, 0, 0, 1).id("asst", 0)) is not None:
                return 0
            end = (until or datetime.now(UTC)).timestamp()
            history = _History(seed, runs, int(end), max(int(days * _DAY), 2 * _MARGIN))
            history.make()
            for table, bodies in history.made.items():
                _insert(conn, table, sorted(bodies, key=lambda body: body["created_at"]))
            return len(history.made[store.runs])
    finally:
        database.close()


def _insert(conn: sa.Connection, table: sa.Table, bodies: list[JSON]) -> None:
    names = [name for name in table.c.keys() if bodies and name in bodies[0]]  # noqa: SIM118  # no mapping
    for start in range(0, len(bodies), _TOGETHER):
        part = bodies[start : start + _TOGETHER]
        conn.execute(sa.insert(table), [{**{n: body[n] for n in names}, "body": body} for body in part])


class _History:
    """Generates the objects of a history."""

    def __init__(self, seed: int, runs: int, end: int, length: int) -> None:
        self.seed, self.runs, self.end, self.length = seed, runs, end, length
        self.made: dict[sa.Table, list[JSON]] = {
            table: [] for table in (store.assistants, store.threads, store.messages, store.runs, store.steps)
        }
        self.called = 0
        self._random = random.Random(seed)

    def id(self, prefix: str, number: int) -> str:
        """Return the id of an object by its prefix and number."""
        return objects.derived_id(prefix, "history", self.seed, prefix, number)

    def make(self) -> None:
        """Generate all objects."""
        assistants = [self._assistant(scene) for scene in SCENES]
        while len(self.made[store.runs]) < self.runs:
            (place,) = self._random.choices(range(len(SCENES)), [scene.share for scene in SCENES])
            self._talk(SCENES[place], assistants[place])

    def add(self, table: sa.Table, prefix: str, body: JSON) -> JSON:
        """Add an object with a new id, and return it."""
        body["id"] = self.id(prefix, len(self.made[table]))
        self.made[table].append(body)
        return body

    def _assistant(self, scene: Scene) -> JSON:
        params = {
            "model": scene.models[1],
            "name": scene.name,
            "instructions": scene.instructions,
            "tools": [call.to_json() for call in scene.calls],
            "metadata": {"team": scene.team},
        }
        return self.add(store.assistants, "asst", objects.assistant(params, self.end - self.length))

    def _talk(self, scene: Scene, assistant: JSON) -> None:
        """Generate a thread, sometimes with further questions after the first answer."""
        now = self._moment()
        thread = self.add(store.threads, "thread", objects.thread({}, now))
        said = 0
        while now < self.end - _MARGIN and len(self.made[store.runs]) < self.runs:
            fillings = {name: self._random.choice(values) for name, values in FILLINGS.items()}
            question = self._random.choice(scene.questions).format(**fillings)
            asked = objects.message({"role": "user", "content": [text_content(question)]}, thread["id"], now)
            self.add(store.messages, "msg", asked)
            turn = _Turn(self, scene, self._run(scene, assistant, thread, now), now + 1, said, fillings)
            now = turn.play()
            said += turn.tokens
            if self._random.random() < 0.55 or turn.run["status"] == "failed":
                return
            now += int(self.around(70, 0.8))

    def _moment(self) -> int:
        """Return a start time of a thread, mostly during the day on working days."""
        while True:
            moment = self.end - self.length + int(self._random.random() * (self.length - _MARGIN))
            at = datetime.fromtimestamp(moment, UTC)
            hour = at.hour + at.minute / 60
            busy = 0.06 + math.exp(-((hour - 10.5) ** 2) / 8) + 0.8 * math.exp(-((hour - 14.5) ** 2) / 6)
            if self._random.random() < busy * (1.0 if at.weekday() < 5 else 0.3) / 1.25:
                return moment

    def _run(self, scene: Scene, assistant: JSON, thread: JSON, now: int) -> JSON:
        model = scene.models[now > self.end - self.length / 3]
        metadata = {"team": scene.team, "channel": self._random.choice(("web", "web", "mail", "app"))}
        params = {"model": model, "metadata": metadata}
        run = objects.run(assistant, params, thread["id"], now + 1, _LIFETIME)
        return self.add(store.runs, "run", run)

    def around(self, median: float, spread: float = 0.5) -> float:
        """Return a random duration with this median. It is rarely far above it."""
        return self._random.lognormvariate(math.log(median), spread)

    def one_in(self, many: float) -> bool:
        """Return True in one of `many` cases."""
        return self._random.random() < 1 / many

    def choice(self, of: tuple[Any, ...]) -> Any:
        """Return one of these."""
        return self._random.choice(of)

    def sample(self, of: tuple[Call, ...], most: int) -> list[Call]:
        """Return one of these, or sometimes `most` of them."""
        return self._random.sample(of, min(len(of), self._random.choice((1, 1, most))))


class _Turn:
    """Generates one run, from its creation to its end."""

    def __init__(
        self, history: _History, scene: Scene, run: JSON, now: int, said: int, fillings: dict[str, str]
    ) -> None:
        self.history, self.scene, self.run, self.now, self.fillings = (
            history,
            scene,
            run,
            float(now),
            fillings,
        )
        self.tokens = 0
        self._prompt = int(history.around(scene.prompt_tokens, 0.25)) + said
        self._used: list[JSON] = []

    def play(self) -> int:
        """Create the objects of the turn, and return when it ended."""
        self.now += min(self.history.around(0.8, 1.0), 40)
        self.run["started_at"] = int(self.now)
        if not (self._fails() or self._is_cancelled()):
            for _ in range(self._rounds()):
                if not self._calls():
                    return self._expire()
            self._answer()
        return int(self.now)

    def _rounds(self) -> int:
        rounds = self.scene.rounds
        return int(rounds) + self.history.one_in(1 / max(rounds % 1, 1e-9)) if self.scene.calls else 0

    def _fails(self) -> bool:
        model, at = str(self.run["model"]), self.history.end - self.now
        down = model == _OUTAGE_MODEL and _OUTAGE_FROM - _OUTAGE_FOR < at < _OUTAGE_FROM
        if down and self.history.one_in(1.25):
            self._fail("server_error", 20)
        elif model == "gpt-4o" and self.history.one_in(35):
            self._fail("rate_limit_exceeded", 1)
        elif self.history.one_in(160):
            self._fail("server_error", 8)
        elif self.history.one_in(700):
            self._fail("invalid_prompt", 2)
        return bool(self.run["status"] == "failed")

    def _fail(self, code: str, seconds: float) -> None:
        self.now += self.history.around(seconds)
        message = _ERRORS[code].format(model=self.run["model"])
        self._end("failed", "failed_at", last_error={"code": code, "message": message})

    def _is_cancelled(self) -> bool:
        if not self.history.one_in(90):
            return False
        self.now += self.history.around(6)
        self._end("cancelled", "cancelled_at")
        return True

    def _expire(self) -> int:
        self.now = float(self.run["expires_at"])
        self.run |= {"status": "expired", "usage": _total(self._used)}
        return int(self.now)

    def _end(self, status: str, time: str, **why: Any) -> None:
        ended = {"status": status, time: int(self.now), "expires_at": None}
        self.run |= {**ended, **why, "usage": _total(self._used)}

    def _thinks(self, tokens: int) -> JSON:
        """Advance the time while the model writes, and return the usage."""
        model = MODELS[str(self.run["model"])]
        reasoning = int(tokens * model.reasoning)
        self.now += self.history.around(model.delay, 0.4) + (tokens + reasoning) / model.speed
        counts = {"prompt_tokens": self._prompt, "completion_tokens": tokens + reasoning}
        cached = self._prompt // 128 * 128 if self._used else 0
        usage: JSON = objects.usage({**counts, "total_tokens": sum(counts.values())}) or {}
        usage |= {"prompt_token_details": {"cached_tokens": cached}}
        usage |= {"completion_tokens_details": {"reasoning_tokens": reasoning}}
        self._prompt += tokens
        self.tokens += tokens
        self._used.append(usage)
        return usage

    def _calls(self) -> bool:
        """Generate a round of tool calls. Return whether they were answered."""
        asked = self.history.sample(self.scene.calls, 2)
        usage = self._thinks(25 * len(asked))
        begun = int(self.now)
        answered = not self.history.one_in(250)
        calls = [self._call(call, answered) for call in asked]
        self.now += max(self._seconds(call) for call in asked)
        self._prompt += 60 * len(asked)
        ending = {"completed_at": int(self.now)} if answered else {"expired_at": self.run["expires_at"]}
        status = "completed" if answered else "expired"
        self._step({"type": "tool_calls", "tool_calls": calls}, begun, usage, status, ending)
        return answered

    def _call(self, call: Call, answered: bool) -> JSON:
        arguments = json.dumps({call.parameter: self.history.choice(call.values)}, ensure_ascii=False)
        output = self.history.choice(call.outputs) if answered else None
        function = {"name": call.name, "arguments": arguments, "output": output}
        self.history.called += 1
        return {"id": self.history.id("call", self.history.called), "type": "function", "function": function}

    def _seconds(self, call: Call) -> float:
        slow = call.name == _SLOW_CALL and self.history.end - self.now < _SLOW_FROM
        return min(self.history.around(call.seconds * (_SLOWER if slow else 1), 0.6), 200)

    def _answer(self) -> None:
        begun = int(self.now)
        tokens = int(self.history.around(self.scene.answer_tokens, 0.4))
        cut_off = self.history.one_in(60)
        usage = self._thinks(tokens)
        text = self.history.choice(self.scene.answers).format(**self.fillings)
        message = self._message(text[: len(text) // 2] if cut_off else text, begun, cut_off)
        details = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
        self._step(details, begun, usage, "completed", {"completed_at": int(self.now)})
        if cut_off:
            reason = {"reason": "max_completion_tokens"}
            self._end("incomplete", "completed_at", incomplete_details=reason, max_completion_tokens=tokens)
        else:
            self._end("completed", "completed_at")

    def _message(self, text: str, begun: int, cut_off: bool) -> JSON:
        over: JSON = {"status": "completed", "completed_at": int(self.now)}
        if cut_off:
            reason = {"reason": "max_tokens"}
            over = {"status": "incomplete", "incomplete_at": int(self.now), "incomplete_details": reason}
        body = objects.answer(self.run, "", begun) | over | {"content": [text_content(text)]}
        return self.history.add(store.messages, "msg", body)

    def _step(self, details: JSON, begun: int, usage: JSON, status: str, ending: JSON) -> None:
        step = objects.step(self.run, "", details, begun) | {"status": status, "usage": usage, **ending}
        self.history.add(store.steps, "step", step)


def _total(parts: Iterable[JSON]) -> JSON:
    """Return the sum of usages, including their details."""
    return _sum(objects.usage(objects.NO_USAGE) or {}, list(parts))


def _sum(like: JSON, parts: list[JSON]) -> JSON:
    return dict(_sums(like, parts))


def _sums(like: JSON, parts: list[JSON]) -> Iterator[tuple[str, Any]]:
    for name, value in like.items():
        inner = [part[name] for part in parts]
        yield name, _sum(value, inner) if isinstance(value, dict) else sum(inner)
