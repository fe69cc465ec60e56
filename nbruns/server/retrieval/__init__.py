"""Retrieval: text of files -> passages -> vectors and words -> search."""
