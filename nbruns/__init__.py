"""Explore, watch and answer assistant runs from a notebook."""

__version__ = "0.1.0"
