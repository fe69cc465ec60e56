"""What runs the Python of code_interpreter: kernels in a sandbox or elsewhere, and the sessions that have them."""
