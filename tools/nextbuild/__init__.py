"""Says what another build of the engine does otherwise than the one that the library follows (docs/internals/next-build.md).

| module          | one responsibility                                                    |
|-----------------|-----------------------------------------------------------------------|
| `cpp`           | a C++ file → its definitions                                          |
| `trees`         | a source tree, or what was recorded of one → definitions by path      |
| `citations`     | the library's docstrings and comments → the definitions that they cite |
| `architectures` | a tree → architectures, header keys, tensor names, flags, converter   |
| `rules`         | citations and two trees → what changed                                |
| `make`          | a tree → what is recorded of it                                       |
| `report`        | all that, in words                                                    |
| `proofs`        | graphs and estimates against a built engine                           |

    python -m tools.nextbuild show TREE
    python -m tools.nextbuild prove TREE --libraries FOLDER
    python -m tools.nextbuild record TREE --title COMMIT
"""

import pathlib
import sys

_SOURCE = str(pathlib.Path(__file__).parents[2] / "src")
if not any(pathlib.Path(p, "vramfit/__init__.py").exists() for p in sys.path):
    sys.path.insert(0, _SOURCE)  # the engine's environment need not have the library installed
