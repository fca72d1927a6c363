"""Parse the command line, call, print. The one bridge from `VramfitError` to an exit status.

Exit status: 0 when it fits (or there was nothing to fit), 3 when it does not, 1 on an error, 2 on
usage.
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
