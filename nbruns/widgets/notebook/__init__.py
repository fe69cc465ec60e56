"""What widgets need of the notebook: saved outputs, threads, and waiting in a cell."""
