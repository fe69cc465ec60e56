"""Modes of code_interpreter: in the sandbox, on a Jupyter server, without a sandbox, or off."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from nbruns.errors import SetupError, install_command
from nbruns.server.interpreter import sandbox
from nbruns.server.interpreter.sessions import Interpreter

#: Packages that kernels on this machine need, and packages for kernels on a Jupyter server.
_LOCAL, _REMOTE = ("ipykernel", "jupyter_client", "zmq"), ("tornado",)


def interpreter(mode: str | None) -> Interpreter | None:
    """Return the interpreter for a mode, or None if code_interpreter is off.

    Args:
        mode: `bwrap`, `off`, `unsandboxed`, or the URL of a Jupyter server or kernel gateway. None: `bwrap` if it works
            here, otherwise `off`.

    Raises:
        SetupError: The mode doesn't work on this machine.
    """
    if mode is None:
        return Interpreter("bwrap") if why_no_sandbox() is None else None
    if mode == "off":
        return None
    if mode == "bwrap":
        if (why := why_no_sandbox()) is not None:
            raise SetupError(f"--code-interpreter bwrap: {why}.")
    elif mode == "unsandboxed":
        if _missing(_LOCAL):
            raise SetupError(f"--code-interpreter unsandboxed: run `{install_command('code-interpreter')}`.")
    else:
        _check_url(mode)
    return Interpreter(mode)


def why_no_sandbox() -> str | None:
    """Return why the sandbox doesn't work on this machine, or None if it works."""
    if _missing(_LOCAL):
        return f"packages are missing; run `{install_command('code-interpreter')}`"
    return sandbox.why_not()


def ways_out(why: str | None) -> str:
    """Return instructions for the operator to make code_interpreter available. `why` is the reason why it is not, if
    known."""
    return (
        f"{f'The reason: {why}. ' if why else ''}Whoever runs the server has three ways to offer it: a sandbox, which "
        "needs Linux, bubblewrap and the packages of the extra code-interpreter; --code-interpreter URL of a Jupyter "
        "server or kernel gateway; or --code-interpreter unsandboxed, which lets the model's code do whatever the "
        "server can."
    )


def _missing(packages: tuple[str, ...]) -> bool:
    return any(find_spec(name) is None for name in packages)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.username or parts.password or parts.query or parts.fragment:
        raise SetupError(
            f"--code-interpreter {url[:100]}: Use bwrap, unsandboxed, off, or the base URL of a Jupyter server, such "
            "as http://127.0.0.1:8888, with its token in NBRUNS_JUPYTER_TOKEN."
        )
    if _missing(_REMOTE):
        raise SetupError(f"--code-interpreter URL: run `{install_command('code-interpreter')}`.")
