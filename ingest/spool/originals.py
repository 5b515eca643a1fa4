"""Where an original comes to rest: as it arrived, or sealed as a whole (`security.encrypt_originals`).

A rename is one step; sealing is three: write the sealed file under a hidden name, rename that to its place, remove the
original. A crash between the last two leaves both, and whoever comes next knows the sealed one by the id in it.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

from llm_scheduler.ingest.spool.renames import rename_new
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.sealing import Seal, WrongKey
from llm_scheduler.jobs.sealing.seal import chunks_of, is_sealed_file

_BEGINNING = 128  # bytes, in which a sealed file's first line ends


def seal_beside(original: str, home: str, document_id: str, seal: Seal) -> str | None:
    """Write a sealed copy of `original` under a hidden name in the folder of `home`. Returns its path.

    None where there is nothing to seal: what was dropped is no file, or nobody may read it. The copy is not synced.
    Raises OSError.
    """
    if is_at_rest(home, document_id):
        return None
    try:
        source = os.open(original, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    hidden = hidden_beside(home, document_id)
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            return None
        with open(hidden, "wb", opener=_private) as file:
            file.writelines(seal.lock_file(document_id, chunks_of(source)))
        return hidden
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(hidden)
        raise
    finally:
        os.close(source)


def hidden_beside(home: str, document_id: str) -> str:
    """Where the sealed copy is written that is to become `home`."""
    return os.path.join(os.path.dirname(home), f".{document_id}.sealed.tmp")


def put_to_rest(original: str, home: str, document_id: str, sealed: str | None, at: FaultPoint = no_faults) -> None:
    """Move `original`, or its sealed copy, to `home`. Raises OSError; FileExistsError when `home` is another's."""
    if sealed:
        rename_new(sealed, home)
        at("original.sealed_in_place")
        os.unlink(original)
    elif is_at_rest(home, document_id):
        os.unlink(original)
    else:
        rename_new(original, home)


def is_at_rest(home: str, document_id: str) -> bool:
    """Whether the sealed original of this document is at `home` already."""
    try:
        with open(home, "rb", opener=_no_link) as file:
            return is_sealed_file(file.read(_BEGINNING), document_id)
    except OSError:
        return False


def is_sealed(path: str) -> bool:
    """Whether a file is sealed as a whole. Raises OSError."""
    with open(path, "rb") as file:
        return is_sealed_file(file.read(_BEGINNING))


def read_original(path: str, seal: Seal | None) -> bytes:
    """The bytes of an original, sealed or not. Raises OSError, and `WrongKey` when no key opens it."""
    return b"".join(opened_original(path, seal))


def opened_original(path: str, seal: Seal | None) -> Iterator[bytes]:
    """The pieces of `read_original`."""
    sealed = is_sealed(path)
    with open(path, "rb") as file:
        if not sealed:
            yield from iter(lambda: file.read(1 << 20), b"")
            return
        if seal is None:
            raise WrongKey
        yield from seal.unlock_file(file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
