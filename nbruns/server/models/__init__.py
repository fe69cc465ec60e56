"""Models by name. Each is imported and built when it is first used.

A package adds models through the entry-point group `nbruns.models`: the entry's name is the model's name, and its
value a class or function that takes no arguments and returns a `Model`. nbruns registers its own the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from threading import Lock

from nbruns.errors import SetupError
from nbruns.server.models.protocol import (
    Closing,
    Delta,
    Finish,
    Model,
    ModelError,
    Prompt,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolUser,
    functions_due,
    questions,
    usage,
)
from nbruns.text import excerpt

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
    "ToolUser",
    "UnknownModelError",
    "functions_due",
    "questions",
    "usage",
]


#: The entry points of this group are the models of installed packages.
GROUP = "nbruns.models"

log = logging.getLogger(__name__)


class UnknownModelError(LookupError):
    """No model has this name. The message lists the known models and explains how to add others."""


class Models:
    """Models by name: registered models (`demo` and `smollm2` are nbruns' own), GGUF files, and models of an
    upstream.

    Args:
        files: GGUF files by model name.
        upstream: Base URL of an endpoint that serves all other names.
        upstream_api: API of the upstream: "chat" (Chat Completions) or "responses". Default: detected for each
            model.
        aliases: Names of models, by the name or pattern (`gpt-*`) that programs request. The first match is used.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, str | Path] | None = None,
        upstream: str | None = None,
        upstream_api: str | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._aliases = dict(aliases or {})
        self._builders = _registered()
        self._builders |= {name: _gguf_builder(path) for name, path in (files or {}).items()}
        self._built: dict[str, Model] = {}
        self._upstream_url, self._upstream_api = upstream, upstream_api
        self._upstream: Model | None = None
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """The names of models, without those of the upstream."""
        return sorted(self._builders.keys() | self._built.keys())

    def add(self, name: str, model: Model) -> None:
        """Add a model with this name."""
        with self._lock:
            self._built[name] = model

    def real_name(self, name: str) -> str:
        """Return the name of the model for `name`, which can be an alias."""
        if name in self._aliases:
            return self._aliases[name]
        if name in self._builders or name in self._built:
            return name
        return next((real for alias, real in self._aliases.items() if fnmatchcase(name, alias)), name)

    def knows(self, name: str) -> bool:
        """Whether a model for `name` exists, without building it."""
        name = self.real_name(name)
        return bool(self._upstream_url) or name in self._builders or name in self._built

    async def check_name(self, name: str) -> None:
        """Raise UnknownModelError if there is no model for `name`, here or at the upstream."""
        if not self.knows(name):
            raise UnknownModelError(self._unknown(name))
        real = self.real_name(name)
        if real not in self._builders and real not in self._built:
            upstream = await asyncio.to_thread(self._upstream_for, real)
            if (said := await upstream.lacks(real)) is not None:  # type: ignore[attr-defined]
                raise UnknownModelError(self._stands_for(name) + said)

    def _stands_for(self, name: str) -> str:
        real = self.real_name(name)
        return "" if real == name else f"{excerpt(repr(name))} stands for {excerpt(repr(real))} here. "

    async def listed(self) -> list[tuple[str, str]]:
        """Return the names that runs can use, each with its source: `nbruns`, `alias` or `upstream`."""
        found = dict.fromkeys(self.names, "nbruns")
        found |= {alias: "alias" for alias in self._aliases if not set(alias) & set("*?[")}
        if self._upstream_url:
            upstream = await asyncio.to_thread(self._upstream_for, "")
            found = dict.fromkeys(await upstream.names(), "upstream") | found  # type: ignore[attr-defined]
        return sorted(found.items())

    def resolve(self, name: str) -> Model:
        """Return the model of that name. Raises UnknownModelError, or SetupError if a package is missing."""
        if name in self._builders and name not in self._built:
            with self._lock:
                if name not in self._built:
                    self._built[name] = self._builders[name]()
        return self._built[name] if name in self._built else self._upstream_for(name)

    def check(self) -> None:
        """Create the upstream now, so that errors in its settings raise SetupError at startup."""
        if self._upstream_url:
            self._upstream_for("")
        for alias, name in self._aliases.items():
            if not self._upstream_url and name not in self.names:
                raise SetupError(f"The alias {alias!r} stands for {name!r}. {self._unknown(name)}")

    async def close(self) -> None:
        """Close the models that hold resources, such as the connections of the upstream."""
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
            f"{self._stands_for(name)}The model {self.real_name(name)!r} does not exist here; there are {known}. To "
            "add others, start the "
            f"server with `nbruns serve --upstream URL` (any Chat Completions or Responses endpoint) or "
            f"`--model NAME=FILE.gguf`, or let one of these answer: `--alias '{name[:100]}=demo'`."
        )


def _registered() -> dict[str, Callable[[], Model]]:
    """Return functions that build the models that packages register. nbruns' own models take precedence."""
    found: dict[str, Callable[[], Model]] = {}
    # Sorted, so that among other packages, always the same one gets a name: the first in alphabetical order.
    for entry in sorted(
        entry_points(group=GROUP), key=lambda entry: (_package(entry) != "nbruns", _package(entry))
    ):
        if entry.name in found:
            log.warning(
                "The model %r of the package %s is ignored: the name is taken.", entry.name, _package(entry)
            )
        else:
            found[entry.name] = _entry_builder(entry)
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else ""


def _entry_builder(entry: EntryPoint) -> Callable[[], Model]:
    def build() -> Model:
        try:
            model: Model = entry.load()()
        except (ImportError, AttributeError, TypeError) as error:
            raise SetupError(
                f"The package {_package(entry)} registers the model {entry.name!r} as {entry.value}, which can't be "
                f"loaded ({type(error).__name__}: {excerpt(error)}). Install what it needs, or remove the package."
            ) from error
        return model

    return build


def _gguf_builder(path: str | Path) -> Callable[[], Model]:
    def build() -> Model:
        from nbruns.server.models.gguf import GGUF

        return GGUF(path)

    return build
