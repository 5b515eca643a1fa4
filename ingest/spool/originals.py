"""The final place of an original: as it arrived, or encrypted as a whole (`security.encrypt_originals`).

Without encryption, the move is one rename. With it there are three steps: write the encrypted copy under a hidden name,
rename the copy to its place, remove the original. A crash between the last two leaves both files. The copy in its
place is recognised by the id in its first line.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

from llm_scheduler.ingest.spool.file_io import open_file, rename_new
from llm_scheduler.ingest.spool.names import sealed_copy_path
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.sealing import Seal, WrongKey
from llm_scheduler.jobs.sealing.seal import chunks_of, is_sealed_file

_HEAD = 128  # bytes; the first line of a sealed file is shorter


def write_sealed_copy(original: str, home: str, document_id: str, seal: Seal | None) -> str | None:
    """Write an encrypted copy of `original` under a hidden name in the folder of `home`. Returns its path.

    None without `seal`, or when the copy is in its place already, or `original` is not a file that can be read: then
    it is moved as it is. The copy is not synced. Raises OSError.
    """
    if seal is None or is_in_place(home, document_id):
        return None
    try:
        source = open_file(original)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    hidden = sealed_copy_path(home, document_id)
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            return None
        with open(hidden, "wb", opener=_open_private) as file:
            file.writelines(seal.lock_file(document_id, chunks_of(source)))
        return hidden
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(hidden)
        raise
    finally:
        os.close(source)


def move_original(
    original: str, home: str, document_id: str, seal: Seal | None, sealed: str | None, at: FaultPoint = no_faults
) -> None:
    """Move `original`, or its encrypted copy `sealed`, to `home`. `seal` as in `write_sealed_copy`.

    Raises OSError; FileExistsError when another file is at `home`.
    """
    if sealed:
        rename_new(sealed, home)
        at("original.sealed_in_place")
        os.unlink(original)
    elif seal and is_in_place(home, document_id):
        os.unlink(original)
    else:
        rename_new(original, home)


def is_in_place(home: str, document_id: str) -> bool:
    """Whether the encrypted original of this document is at `home` already."""
    try:
        with open(open_file(home), "rb") as file:
            return is_sealed_file(file.read(_HEAD), document_id)
    except OSError:
        return False


def is_sealed(path: str) -> bool:
    """Whether a file is encrypted as a whole. Raises OSError."""
    with open(path, "rb") as file:
        return is_sealed_file(file.read(_HEAD))


def read_original(path: str, seal: Seal | None) -> bytes:
    """The bytes of an original, decrypted if need be. Raises OSError, and `WrongKey` when no key opens it."""
    return b"".join(original_chunks(path, seal))


def original_chunks(path: str, seal: Seal | None) -> Iterator[bytes]:
    """The same as `read_original`, in chunks."""
    sealed = is_sealed(path)
    with open(path, "rb") as file:
        if not sealed:
            yield from iter(lambda: file.read(1 << 20), b"")
            return
        if seal is None:
            raise WrongKey
        yield from seal.unlock_file(file)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
