"""Fuzzing of the network reader, by the corpus of the header's: any bytes, sent in any of a few ways, give a `Header`
or a `VramfitError`.

    python tests/fuzz/remote.py tests/fuzz/corpus -max_total_time=60
    python tests/fuzz/remote.py --mutate 2000

The options are those of `header.py`. The first byte of an input says how the server behaves, the rest is what it serves.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from header import CORPUS, mutate  # noqa: E402
from servers import Served, Server, running  # noqa: E402

WAYS = (
    {}, {"ranges": False}, {"chunked": True}, {"length": -1, "ranges": False}, {"cut": 40}, {"length": 70},
    {"size": 1 << 40}, {"size": 100}, {"content_range": "bytes 0-5/*"}, {"endless": True, "ranges": False},
)  # fmt: skip


def check(server: Server, data: bytes) -> None:
    """Fail on anything but a header or an error that is ours."""
    from vramfit import _sources as source
    from vramfit._base.errors import VramfitError

    way = WAYS[data[0] % len(WAYS)] if data else {}
    server.log.clear()
    server.files["/m.gguf"] = Served(data[1:], **way)  # type: ignore[arg-type]
    with suppress(VramfitError):
        source.open_headers(f"{server.url}/m.gguf", cache=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running() as server:
        os.environ |= {"VRAMFIT_CACHE": folder, "VRAMFIT_TIMEOUT": "5"}
        if "--mutate" in sys.argv:
            dice = random.Random(0)
            seeds = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
            for _ in range(int(sys.argv[sys.argv.index("--mutate") + 1])):
                check(server, bytes([dice.randrange(256)]) + mutate(dice.choice(seeds), dice))
            return
        import atheris

        with atheris.instrument_imports(include=["vramfit"]):
            import vramfit._sources  # noqa: F401 - what is to be measured
        atheris.Setup(sys.argv, lambda data: check(server, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
