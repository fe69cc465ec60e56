"""The local server: assistants, threads, messages, runs and steps over HTTP, on the user's own database.

Read in this order: `main` (the process), `app` and `routes` (HTTP), `storage.store` (tables and queries),
`runs.transitions` (the states of a run), `runs.engine` and `runs.turn` (its execution), `runs.streams` (its
events).
"""
