"""Python code that the demo model writes for code_interpreter: for attached tables, plots, and sums.

The code comes from templates, but it is executed, and the answer shows its actual output.
"""

from __future__ import annotations

import re
from typing import Any

from nbruns.text import JSON

#: The name of the function that stands for the tool, and its parameter.
FUNCTION, PARAMETER = "code_interpreter", "code"

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.{1,20000}?)```", re.DOTALL)
_TABLE = re.compile(r"/mnt/data/([\w.() -]{1,200}?\.(?:csv|tsv|xlsx|json))\b")
_ATTACHED = re.compile(r"\[attached file ([\w.() -]{1,200}?\.(?:csv|tsv|xlsx|json))\]")
_PLOT = re.compile(
    r"\b(?:plot|chart|graph|diagram|draw|histogram|visuali[sz]\w*|figure|picture)\b", re.IGNORECASE
)
_WORK = re.compile(r"\b(?:python|code|script|calculate|compute)\b", re.IGNORECASE)
_SUM = re.compile(r"(?<![\w.])\(*-?\d[\d.]*(?:\s*(?:\*\*|[-+*/%])\s*\(*-?\d[\d.]*\)*)+")

_READERS = {"csv": "read_csv", "tsv": "read_table", "xlsx": "read_excel", "json": "read_json"}

TABLE = """\
import pandas as pd

data = pd.{reader}({path!r})
print(f"{{len(data):,}} rows, {{len(data.columns)}} columns\\n")
print(data.head().to_string(index=False))

summary = data.describe().round(2)
print()
print(summary.to_string())
summary.to_csv("/mnt/data/summary.csv")
"""

TABLE_PLOT = """
import matplotlib.pyplot as plt

numbers = data.select_dtypes("number")
others = [column for column in data.columns if column not in numbers.columns]
labels = data[others[0]].astype(str) if others else data.index
figure, axes = plt.subplots(figsize=(7, 4))
for column in numbers.columns[:4]:
    axes.plot(labels[:50], numbers[column][:50], marker="o", label=column)
axes.legend()
axes.tick_params(axis="x", rotation=45)
figure.tight_layout()
plt.show()
"""

CURVE = """\
import numpy as np
import pandas as pd
import matplotlib.pyplot as plt

x = np.linspace(0, 2 * np.pi, 200)
table = pd.DataFrame({"x": x, "sine": np.sin(x), "cosine": np.cos(x)})
print(table.iloc[::50].round(3).to_string(index=False))

table.plot(x="x", figsize=(7, 4), grid=True, title="Sine and cosine")
plt.show()
"""


def code_for(function: JSON, said: list[str], *, wanted: bool) -> str | None:
    """Return the code to run for the latest message, or None if the message doesn't need code.

    Args:
        function: The function that represents the tool. Its description contains the names of the files.
        said: The user's messages, the latest first.
        wanted: Whether to return code in any case.
    """
    latest = said[0] if said else ""
    if (block := _BLOCK.search(latest)) is not None:
        return block[1]
    names = [*_ATTACHED.findall(latest), *_TABLE.findall(str(function.get("description")))]
    if names:
        reader = _READERS[names[0].rpartition(".")[2]]
        plot = TABLE_PLOT if _PLOT.search(latest) else ""
        return TABLE.format(reader=reader, path=f"/mnt/data/{names[0]}") + plot
    if _PLOT.search(latest):
        return CURVE
    if (found := _SUM.search(latest)) is not None and found[0].count("(") == found[0].count(")"):
        return f"print({found[0]})\n"
    if wanted or _WORK.search(latest):
        return 'import sys\n\nprint("Python", sys.version.split()[0])\n'
    return None


def answer(code: str, output: str) -> str:
    """Return the part of an answer that shows the output of the code."""
    shown = output if len(output) <= 3000 else output[:3000] + "\n…"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    link = (
        "\n\nThe summary is in [summary.csv](sandbox:/mnt/data/summary.csv)."
        if "summary.csv was written" in output
        else ""
    )
    lines = len(code.splitlines())
    return f"I ran {lines} lines of Python, which gave:\n\n{fence}text\n{shown.rstrip()}\n{fence}{link}"


def code_of(arguments: Any) -> str | None:
    """Return the code in the arguments of a call of the tool."""
    code = arguments.get(PARAMETER) if isinstance(arguments, dict) else None
    return code if isinstance(code, str) else None
