"""The command line: `nereid COMMAND`."""

from gateway.cli.main import main

__all__ = ["main"]
