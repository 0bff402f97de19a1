"""``python -m jaxpg`` is the ``jaxpg`` command. No other module imports this one."""

import sys

from jaxpg.lab.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
