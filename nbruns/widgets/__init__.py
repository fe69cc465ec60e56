"""Jupyter widgets: the live run view, the tool-output form and the runs table. They use a client passed in."""
