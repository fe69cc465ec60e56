"""Execution of Python for code_interpreter: kernels, in a sandbox or elsewhere, and sessions."""
