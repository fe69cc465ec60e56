"""`python -m nbruns` is `nbruns`."""

import sys

from nbruns.cli import main

sys.exit(main())
