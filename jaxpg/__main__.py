"""``python -m jaxpg`` is the ``jaxpg`` command."""

import sys

from jaxpg.lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
