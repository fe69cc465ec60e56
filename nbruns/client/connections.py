"""The connections of a session, each found by the thread that waits for an answer on it.

Nothing in requests ends a request that is under way: a time-out starts anew with each byte that trickles in, and
an interrupted user would wait for it. Another thread can: it shuts the socket down.
"""

from __future__ import annotations

import socket
import warnings
from importlib.metadata import version
from threading import get_ident
from typing import Any
from weakref import WeakValueDictionary

import requests
import urllib3
from requests.adapters import HTTPAdapter

#: What is used of urllib3 to end a request from another thread.
_USED = (
    (urllib3.PoolManager(), "pool_classes_by_scheme"),
    (urllib3.HTTPConnectionPool, "ConnectionCls"),
    (urllib3.HTTPResponse, "shutdown"),
    (urllib3.HTTPResponse, "read1"),
)
if missing := [name for owner, name in _USED if not hasattr(owner, name)]:
    warnings.warn(
        f"nbruns doesn't know urllib3 {version('urllib3')} (missing: {', '.join(missing)}). Requests may not end at "
        "their timeout or when you interrupt them. Install urllib3<3.",
        RuntimeWarning,
        stacklevel=2,
    )


class Session(requests.Session):
    """Session that follows no redirects: requests would send an api-key header to another host.

    It doesn't read them either: with `allow_redirects=False`, requests reads the body of a redirect without a
    limit.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: no redirect is followed."""


class Connections(HTTPAdapter):
    """A pool of connections, at most `size` of them kept per server."""

    def __init__(self, size: int) -> None:
        # A connection until its answer's head is there, then the response: it may have taken the socket over.
        self._under_way: WeakValueDictionary[int, Any] = WeakValueDictionary()
        super().__init__(pool_connections=size, pool_maxsize=size)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            self._watch(manager)
        return manager

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self._under_way.pop(get_ident(), None)
        response = super().send(*args, **kwargs)
        self._under_way[get_ident()] = response
        return response

    def hang_up(self, thread: int) -> None:
        """Close the request that a thread is waiting for; the thread gets a connection error."""
        waited_for = self._under_way.get(thread)
        if isinstance(waited_for, requests.Response):
            hang_up(waited_for)
            return
        try:
            waited_for.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        except (AttributeError, OSError):
            pass  # nothing is under way, or the connection is just being made

    def _watch(self, manager: Any) -> None:
        kinds = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: self._watched(kind) for scheme, kind in kinds.items()}

    def _watched(self, pool: Any) -> Any:
        under_way = self._under_way

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                under_way[get_ident()] = self
                super().connect()

            def request(self, *args: Any, **kwargs: Any) -> None:
                under_way[get_ident()] = self
                super().request(*args, **kwargs)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def hang_up(response: requests.Response) -> None:
    """Close a response's connection, also while another thread reads from it: that one is woken."""
    try:
        response.raw.shutdown()
    except (AttributeError, ValueError, OSError, RuntimeError):
        pass  # the connection is back in the pool, or closed already
    response.close()
