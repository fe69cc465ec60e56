"""The routes. Importing this package defines all operations."""

from nbruns.server.routes import about, assistants, batches, files, runs, threads, vector_stores
from nbruns.server.routes.operation import OPERATIONS, Call, Operation, Services

__all__ = [
    "OPERATIONS",
    "Call",
    "Operation",
    "Services",
    "about",
    "assistants",
    "batches",
    "files",
    "runs",
    "threads",
    "vector_stores",
]
