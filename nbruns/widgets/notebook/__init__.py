"""Interaction of widgets with the notebook: saved outputs, threads, and waiting in a cell."""
