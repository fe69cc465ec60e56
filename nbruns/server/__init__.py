"""The embedded server: assistants, threads, messages, runs and steps over HTTP, on the user's own database.

Read in this order: `serve` (a process), `app` and `routes` (HTTP), `store` (tables and queries), `transitions` (a run's
states), `engine` and `turn` (what happens while a run runs), `live` (its open streams).
"""
