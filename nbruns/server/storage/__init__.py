"""The database: tables, queries, the event log, migrations."""
