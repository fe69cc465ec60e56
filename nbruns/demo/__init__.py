"""The demo model, made-up history, and `nbruns demo`."""
