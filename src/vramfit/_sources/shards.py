"""Find the files that make one model, and check that they belong together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from .._base.errors import SourceError
from .._gguf import Header
from .._gguf.limits import MAX_HEADER_BYTES
from .origin import File, Missing

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# A shard's name as llama.cpp writes it (llama.cpp, LLAMA_SPLIT_PATH "%s-%05d-of-%05d.gguf").
_SHARD_NAME: Final = re.compile(r"(?P<stem>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.gguf", re.DOTALL)

# Keys that may differ from shard to shard of one model.
_OF_ONE_SHARD: Final = frozenset({"split.no", "general.alignment"})

# Their headers are read several at once where they are far away, and take no more than this together.
_AT_ONCE: Final = 8
_MAX_SHARDS: Final = 1024
_MAX_SHARD_HEADER_BYTES: Final = 32 << 20
_MAX_TOTAL_BYTES: Final = 512 << 20

Reader: TypeAlias = Callable[[File, int], Header]


def read_all(file: File, read: Reader) -> tuple[Header, ...]:
    """Read the headers of all files of the model that `file` belongs to, in the order of its shards.

    `read` gives the header of one file, of at most so many bytes. Raises `SourceError` when a shard is missing
    or belongs to another model (llama-model-loader.cpp:595-673).
    """
    given = read(file, MAX_HEADER_BYTES)
    if given.split_count <= 1:
        return (given,)
    files = _files(file, given)
    others = [f for i, f in enumerate(files) if i != given.split_no]
    shards = list(_read_others(others, read, given))
    shards.insert(given.split_no, given)
    _check_shards(shards)
    return tuple(shards)


def _files(file: File, given: Header) -> list[File]:
    """List the files of all shards of the model that `file` is a shard of."""
    match = _SHARD_NAME.fullmatch(file.filename)
    number, count = given.split_no + 1, given.split_count
    if number > count or count > _MAX_SHARDS:
        raise SourceError(f"{file.name}: says it is shard {number} of {count}; it is damaged: fetch it again")
    if file.beside is None:
        raise SourceError(
            f"{file.name}: is shard {number} of {count}, and the others cannot be found from here; "
            "give the path of a shard, with the others beside it"
        )
    if not match or (int(match["number"]), int(match["count"])) != (number, count):
        raise SourceError(
            f"{file.name}: is shard {number} of {count}, but is not called "
            f"<name>-{number:05d}-of-{count:05d}.gguf, so that the others cannot be found: give it its name back"
        )
    names = (f"{match['stem']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1))
    files = [file.beside(name) for name in names]
    _refuse_missing([f.filename for f in files if f.path and not f.path.exists()], given)
    return files


def _refuse_missing(missing: Sequence[str], given: Header) -> None:
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SourceError(
            f"{given.name}: is shard {given.split_no + 1} of {given.split_count}; "
            f"missing beside it: {', '.join(missing[:3])}{more}"
        )


def _read_others(files: Sequence[File], read: Reader, given: Header) -> Iterator[Header]:
    """Read the headers of `files`, in order."""
    total = 0
    with ExitStack() as stack:
        headers: Iterable[Header]
        if all(f.path for f in files):
            headers = (read(f, _MAX_SHARD_HEADER_BYTES) for f in files)
        else:
            pool = stack.enter_context(_pool(min(_AT_ONCE, len(files))))
            headers = pool.map(lambda f: _read_far(f, read, given), files)
        for found in headers:
            total += found.header_bytes
            if total > _MAX_TOTAL_BYTES:
                raise SourceError(
                    f"{given.name}: the headers of its shards take more than {_MAX_TOTAL_BYTES:,} bytes"
                )
            yield found


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Make threads that drop what waits as soon as one file is refused."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, thread_name_prefix="vramfit-shard")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _read_far(file: File, read: Reader, given: Header) -> Header:
    try:
        return read(file, _MAX_SHARD_HEADER_BYTES)
    except Missing:
        _refuse_missing([file.filename], given)
        raise


def _check_shards(shards: Sequence[Header]) -> None:
    """Refuse shards that are not one model."""
    first = shards[0]
    owner: dict[str, Header] = {}
    for no, shard in enumerate(shards):
        if (shard.split_no, shard.split_count) != (no, len(shards)):
            raise SourceError(
                f"{shard.name}: says it is shard {shard.split_no + 1} of {shard.split_count}, "
                f"but its name says {no + 1} of {len(shards)}"
            )
        for key in shard.metadata.keys() & first.metadata.keys() - _OF_ONE_SHARD:
            if shard.metadata[key] != first.metadata[key]:
                raise SourceError(
                    f"{shard.name}: belongs to another model: its {key!r} differs from {first.name}"
                )
        for tensor in shard.tensors:
            other = owner.setdefault(tensor.name, shard)
            if other is not shard:
                raise SourceError(f"{shard.name}: tensor {tensor.name!r} is in {other.name} too")
    if len(owner) != first.split_tensors_count:
        raise SourceError(
            f"{first.name}: the model has {first.split_tensors_count} tensors, but its shards hold {len(owner)}: "
            "one of them belongs to another model"
        )
