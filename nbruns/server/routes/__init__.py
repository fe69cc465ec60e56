"""The routes: parse, call, serialise. Importing this defines all operations."""

from nbruns.server.operation import OPERATIONS, Call, Operation, Services
from nbruns.server.routes import about, assistants, runs, threads

__all__ = ["OPERATIONS", "Call", "Operation", "Services", "about", "assistants", "runs", "threads"]
