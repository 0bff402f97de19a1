"""The ``jaxpg`` command."""

from jaxpg.lab.cli.commands import main as main
