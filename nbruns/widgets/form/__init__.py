"""The form for tool outputs."""
