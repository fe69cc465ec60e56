"""The models that answer, by name. Each is imported and built when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock

from nbruns.server.models.contract import (
    Closing,
    Delta,
    Finish,
    Model,
    ModelError,
    Prompt,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    usage,
)

__all__ = [
    "Delta",
    "Finish",
    "Model",
    "ModelError",
    "Models",
    "Prompt",
    "RefusalDelta",
    "TextDelta",
    "ToolCallDelta",
    "UnknownModelError",
    "usage",
]


class UnknownModelError(LookupError):
    """No model has this name; the message says which there are and how to add one."""


class Models:
    """Models by name: `demo`, `smollm2`, GGUF files by the names given, and any other name upstream.

    `files` maps names to GGUF files; `upstream` is the base URL of an endpoint that is sent every name that is
    not known here, `upstream_api` says which it has, "chat" (Chat Completions) or "responses", unless that is to
    be found out.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, str | Path] | None = None,
        upstream: str | None = None,
        upstream_api: str | None = None,
    ) -> None:
        self._builders: dict[str, Callable[[], Model]] = {"demo": _demo, "smollm2": _smollm2}
        self._builders |= {name: _gguf_builder(path) for name, path in (files or {}).items()}
        self._built: dict[str, Model] = {}
        self._upstream_url, self._upstream_api = upstream, upstream_api
        self._upstream: Model | None = None
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """The names known here, besides what the upstream has."""
        return sorted(self._builders.keys() | self._built.keys())

    def add(self, name: str, model: Model) -> None:
        """Let `model` answer to `name`."""
        with self._lock:
            self._built[name] = model

    def knows(self, name: str) -> bool:
        """Tell whether `resolve(name)` finds a model, without building it."""
        return bool(self._upstream_url) or name in self._builders or name in self._built

    def resolve(self, name: str) -> Model:
        """Return the model of that name; `UnknownModelError` if there is none, `SetupError` if it
        needs a package that is missing."""
        if name in self._builders and name not in self._built:
            with self._lock:
                if name not in self._built:
                    self._built[name] = self._builders[name]()
        return self._built[name] if name in self._built else self._upstream_for(name)

    def check(self) -> None:
        """Build the upstream now: what is wrong with it shows at once (`SetupError`), and no run waits for it."""
        if self._upstream_url:
            self._upstream_for("")

    async def close(self) -> None:
        """Let models close what they hold open, if they do: the upstream its connections."""
        for model in [*self._built.values(), self._upstream]:
            if isinstance(model, Closing):
                await model.close()

    def _upstream_for(self, name: str) -> Model:
        if not self._upstream_url:
            raise UnknownModelError(self._unknown(name))
        with self._lock:
            if self._upstream is None:
                from nbruns.server.models.upstream import Upstream

                self._upstream = Upstream(self._upstream_url, api=self._upstream_api)
            return self._upstream

    def _unknown(self, name: str) -> str:
        known = ", ".join(repr(known) for known in self.names)
        return (
            f"The model {name!r} does not exist here; there are {known}. To add others, start the "
            f"server with `nbruns serve --upstream URL` (any Chat Completions or Responses endpoint) or "
            "`--model NAME=FILE.gguf`."
        )


def _demo() -> Model:
    from nbruns.server.models.scripted import Scripted

    return Scripted()


def _smollm2() -> Model:
    from nbruns.server.models.gguf import smollm2

    return smollm2()


def _gguf_builder(path: str | Path) -> Callable[[], Model]:
    def build() -> Model:
        from nbruns.server.models.gguf import GGUF

        return GGUF(path)

    return build
