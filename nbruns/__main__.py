"""The program `nbruns`, which `python -m nbruns` is too."""

import sys


def main() -> int:
    """Run the command line, and return its exit code. Ctrl-C while its modules still load is code 130 too."""
    try:
        from nbruns.cli import main as command_line
    except KeyboardInterrupt:
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
