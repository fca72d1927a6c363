"""Coverage-guided fuzzing of the header reader: any bytes give a `Header` or a `VramfitError`.

    python tests/fuzz/header.py tests/fuzz/corpus -max_total_time=60

Needs `atheris` (libFuzzer for Python); the options are libFuzzer's. New inputs go to the first folder.
Where `atheris` has no build for this Python, `--mutate N` runs N random changes of the corpus instead,
without its guidance.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def check(data: bytes) -> None:
    """Fail on anything but a header or an error that is ours."""
    from vramfit import _gguf as header
    from vramfit import _sources as source
    from vramfit._base.errors import VramfitError
    from vramfit._gguf import limits

    for size in (None, len(data)):
        try:
            found = header.parse(data, file_size=size)
        except VramfitError as error:
            asked = getattr(error, "need", None)
            assert asked is None or size is None
            assert asked is None or len(data) < asked <= limits.MAX_HEADER_BYTES
        else:
            assert found.header_bytes <= len(data)
            assert len(found.metadata) == len(found.types)
            for value in found.metadata.values():
                if isinstance(value, header.Array):
                    decode(value)
    with suppress(VramfitError):
        source.open_headers(data)


def decode(array: object) -> None:
    from vramfit._base.errors import InvalidHeader
    from vramfit._gguf import Array

    assert isinstance(array, Array)
    try:
        assert len(array.values()) == len(array)
    except InvalidHeader:
        assert array.type == "str"


def mutate(data: bytes, dice: random.Random) -> bytes:
    """One to four random changes: a byte set, a field of large or small values, a cut, a repetition."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            changed[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            number = dice.choice((0, 1, 2**30 + 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1))
            changed[at : at + 8] = number.to_bytes(8, "little")
        elif kind == 2:
            del changed[at : at + dice.randrange(16)]
        else:
            changed[at:at] = changed[at : at + dice.randrange(64)]
    return bytes(changed)


def mutated(n: int, seed: int = 0) -> None:
    """Check `n` changed inputs of the corpus."""
    dice = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    for _ in range(n):
        check(mutate(dice.choice(seeds), dice))


def main() -> None:
    if "--mutate" in sys.argv:
        mutated(int(sys.argv[sys.argv.index("--mutate") + 1]))
        return
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=["vramfit"]):
        import vramfit._sources  # noqa: F401 - what is to be measured
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
