"""Proves the graphs that `vramfit._graphs` builds against the engine's own, node for node.

| module     | one responsibility                                                      |
|------------|-------------------------------------------------------------------------|
| `cases`    | a header and settings → the model, its placement, its reservations      |
| `ours`     | the graph that the library builds, and the lines that built it          |
| `live`     | the graphs that the engine builds                                       |
| `compare`  | two graphs → their first difference                                     |
| `prove`    | headers × settings → what is equal, what differs and how, by architecture |
| `draft`    | a header that can be edited and written again                           |
| `vary`     | a header → random headers around it                                     |
| `campaign` | random headers, each proved in a process of its own                     |
| `digest`   | a graph → a short digest; those that were recorded                      |
| `record`   | digests of the engine's graphs, with the headers they are of            |
| `keys`     | header keys that a builder reads and the engine does not                |

    python -m tools.graphs prove HEADER_OR_FOLDER...
    python -m tools.graphs campaign --arch qwen3moe --seed 1 --runs 50
    python -m tools.graphs record
    python -m tools.graphs keys HEADER_OR_FOLDER...
"""

import pathlib
import sys

_SOURCE = str(pathlib.Path(__file__).parents[2] / "src")
if not any(pathlib.Path(p, "vramfit/__init__.py").exists() for p in sys.path):
    sys.path.insert(0, _SOURCE)  # the engine's environment need not have the library installed
