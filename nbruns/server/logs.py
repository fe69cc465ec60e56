"""The server's log on stderr: one line for each request and each error, as text or JSON."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable

from nbruns.text import JSON

#: Log levels, by their names in `nbruns serve --log-level`.
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: Replacement for secrets.
HIDDEN = "[hidden]"
# Shorter secrets are not replaced, because replacing ordinary words would make the log unreadable.
_SHORTEST_SECRET = 8


def configure(format: str, level: str, secrets: Iterable[str | None]) -> None:
    """Log to stderr as `text` or `json` lines, with secrets replaced in all messages."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATS[format]([secret for secret in secrets if secret]))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("nbruns").setLevel(LEVELS[level])


class Text(logging.Formatter):
    """Text lines for people: time, message, known ids. Errors are followed by their traceback."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        known = " ".join(f"{name}={value}" for name, value in _known(record).items() if name in _SHOWN)
        message, error = self.said(record)
        line = " ".join(filter(None, [at, level + message, known]))
        return line if error is None else f"{line}\n{error}"

    def said(self, record: logging.LogRecord) -> tuple[str, str | None]:
        """Return the message and the traceback of a record, without secrets."""
        error = self.formatException(record.exc_info) if record.exc_info else None
        return self._hide(record.getMessage()), error and self._hide(error)

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            for spelled in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}:
                text = text.replace(spelled, HIDDEN)
        return text


class Json(Text):
    """One line of JSON for programs."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message, error = self.said(record)
        line: JSON = {
            "time": f"{at}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **_known(record),
        }
        return json.dumps(line if error is None else {**line, "error": error}, default=str)


FORMATS = {"text": Text, "json": Json}
# Fields added to text lines. The message already contains the others.
_SHOWN = ("run_id", "request_id")


def _known(record: logging.LogRecord) -> JSON:
    known = getattr(record, "known", None)
    return known if isinstance(known, dict) else {}
