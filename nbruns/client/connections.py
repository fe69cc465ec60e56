"""The connections of a session, found by the thread that waits for a response.

requests can't cancel a request in progress: its timeout restarts with each byte that arrives, and interrupting a
cell would have to wait for the response. Here, another thread can cancel it by shutting down the socket.
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

#: Parts of urllib3 that are needed to cancel a request from another thread.
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

    The argument `allow_redirects=False` is not enough: requests would still read the body, without a limit.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: no redirect is followed."""


class Connections(HTTPAdapter):
    """A pool of connections, at most `size` of them kept per server."""

    def __init__(self, size: int) -> None:
        # The connection until the response headers arrive, then the response, which may own the socket by then.
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
            pass  # no request is in progress, or the connection has no socket yet

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
    """Close a response's connection. A thread that is reading from it gets an error immediately."""
    try:
        response.raw.shutdown()
    except (AttributeError, ValueError, OSError, RuntimeError):
        pass  # the connection is back in the pool, or closed already
    response.close()
