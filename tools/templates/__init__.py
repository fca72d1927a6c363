"""Makes the templates of `vramfit._graphs` from graphs that the engine builds. See docs/internals/graphs.md."""

import pathlib
import sys

_SOURCE = str(pathlib.Path(__file__).parents[2] / "src")
if _SOURCE not in sys.path:  # the engine's environment need not have the library installed
    sys.path.insert(0, _SOURCE)
