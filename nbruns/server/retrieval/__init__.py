"""Retrieval: extract the text of files, split it into passages, index vectors and words, and search."""
