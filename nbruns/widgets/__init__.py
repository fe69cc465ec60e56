"""Widgets: the live view of a run, the form for tool outputs, and the table of runs."""
