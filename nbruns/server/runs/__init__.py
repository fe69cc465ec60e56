"""The execution of runs: transitions, turns, streams and batches."""
