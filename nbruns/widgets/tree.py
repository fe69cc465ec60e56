"""Widgets that are made of widgets."""

from __future__ import annotations

from typing import Any


def close_all(widget: Any) -> None:
    """Close a widget and all that are inside: ipywidgets closes only the outermost."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    widget.close()
