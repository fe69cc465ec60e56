"""Jupyter widgets: the live run view, the tool-output form and the runs table. Callers pass the client."""
