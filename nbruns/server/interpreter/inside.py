"""Functions that the server calls in a kernel. This file is executed there as the module `_nbruns`.

Code in a session can change everything here, so the results are as untrusted as any other output.
"""

import base64
import json
import os
import shutil
import stat
import sys
import tempfile
import types

import IPython

#: Maximum number of files that are checked for changes.
MAX_FILES = 2_000

folder = ""
seen: "dict[str, tuple[int, int, int]]" = {}


def start(data: str, max_text: int) -> str:
    """Change to a folder, or to a new temporary one if `data` is empty. Return its name in base64.

    At most `max_text` characters of each cell's text leave the kernel."""
    global folder
    folder = data or tempfile.mkdtemp(prefix="nbruns-")
    os.chdir(folder)
    shell = IPython.get_ipython()
    for stream in (sys.stdout, sys.stderr):
        limit_text(shell, stream, max_text)
    return encoded(folder.encode())


def limit_text(shell: object, stream: object, most: int) -> None:
    """Limit the number of characters of each cell's text that leave the kernel."""
    write, left = stream.write, [most]  # type: ignore[attr-defined]

    def limited(text: str) -> int:
        if left[0] > 0 and isinstance(text, str):
            write(text[: left[0]])
            left[0] -= len(text)
        return len(text)

    stream.write = limited  # type: ignore[attr-defined]
    shell.events.register("pre_run_cell", lambda *info: left.__setitem__(0, most))  # type: ignore[attr-defined]


def encoded(value: bytes) -> str:
    """Return bytes as base64, which the server can decode without a parser."""
    return base64.b64encode(value).decode()


def put(name: str, piece: str, begins: bool) -> None:
    """Write a piece of a file."""
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb" if begins else "ab") as file:
        file.write(base64.b64decode(piece))


def link(name: str, target: str) -> None:
    """Give a file another name."""
    path = os.path.join(folder, name)
    if not os.path.lexists(path):
        os.symlink(target, path)


def changed() -> str:
    """Return the names and sizes of files that are new or changed since the last call, as JSON in base64."""
    found = {}
    for path in _files():
        about = os.lstat(path)
        mark = (about.st_mtime_ns, about.st_size, about.st_ino)
        name = os.path.relpath(path, folder)
        if stat.S_ISREG(about.st_mode) and seen.get(name) != mark:
            seen[name] = mark
            found[name] = about.st_size
    return encoded(json.dumps(found).encode())


def get(name: str, start: int, size: int) -> str:
    """Return a piece of a file in base64."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(os.path.join(folder, name), flags), "rb") as file:
        file.seek(start)
        return encoded(file.read(size))


def remove() -> None:
    """Remove the folder, if it was created for this session."""
    os.chdir("/")
    shutil.rmtree(folder, ignore_errors=True)


def _files() -> "list[str]":
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in sorted(folders) if name[0] not in "._"]
        paths += [os.path.join(parent, name) for name in sorted(names) if name[0] != "."]
        if len(paths) > MAX_FILES:
            break
    return paths[:MAX_FILES]


sys.modules["_nbruns"] = types.ModuleType("_nbruns")
sys.modules["_nbruns"].__dict__.update(globals())
