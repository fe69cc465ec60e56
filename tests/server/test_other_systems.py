"""The server on systems other than Linux: at least, it can be imported there."""

from __future__ import annotations

import subprocess
import sys

#: Takes away what Windows lacks, once the packages that nbruns uses have been imported.
_IMPORTED = """
import os, signal, sys
import IPython, anywidget, filelock, fsspec, httptools, numpy
import pandas, platformdirs, psycopg, sqlalchemy, starlette, uvicorn

sys.modules.update(dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios")))
for name in ("fork", "geteuid", "getuid", "killpg", "nice", "setsid", "sysconf"):
    delattr(os, name)
del signal.SIGKILL, signal.SIGHUP

import nbruns.cli, nbruns.commands, nbruns.server.http, nbruns.server.main
"""


def test_the_server_is_imported_without_what_windows_lacks() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
