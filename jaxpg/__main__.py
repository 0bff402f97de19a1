"""``python -m jaxpg`` is the ``jaxpg`` command: the door of the house, which belongs to the lab; no room imports it."""

import sys

from jaxpg.lab.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
