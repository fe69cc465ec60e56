"""Runs for the browser tests: scripted in the notebook's own kernel, and held at gates that a test opens."""

from __future__ import annotations

from pathlib import Path

WIDGET_TESTS = Path(__file__).parent.parent / "widgets"

#: What every notebook's first cell begins with. A script stops at `gate(name)` until the test touches that file.
SETUP = f"""
import pathlib, sys, time
sys.path.insert(0, {str(WIDGET_TESTS)!r})
from scripted import *
from nbruns.widgets.run_view.view import RunView

def gate(name):
    def closed():
        while not pathlib.Path(name).exists():
            time.sleep(0.02)
    return closed
"""

#: Something of everything that an answer is made of.
MARKDOWN = """## The weather in Oslo

It is **cold** and *wet*, see [the report](https://example.org/oslo). ![a chart](https://example.org/chart.png)

| hour | °C | rain |
|-----:|---:|:----:|
| 18 | 3.1 | yes |
| 21 | 2.4 | no |

1. Take a coat.
2. Take an umbrella:
   - a large one
   - or two

> There is no bad weather, only bad clothes.

```python
def dress(celsius: float) -> str:
    # below five degrees
    return "coat" if celsius < 5 else "jacket"  # and `boots`
```
"""
