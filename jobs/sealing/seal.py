"""The lock itself: Fernet (AES-128-CBC and HMAC-SHA256, https://github.com/fernet/spec) under a list of keys.

The first key locks, every one unlocks: to change keys, put the new one in front and leave the old one for as long as
anything is sealed with it.
"""

import base64
import binascii
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence

MARK = "fernet:"  # what a sealed value begins with, in front of its token
_FILE_MARK = b"fernet-file:1:"  # and a sealed file, in front of its document's id
_CHUNK = 1024 * 1024
_HEAD = struct.Struct(">Q?")  # the number of a chunk, and whether it is the last: none can be moved or left out


class WrongKey(Exception):
    """No key that is at hand opens this, or it was changed after it was sealed."""

    def __init__(self) -> None:
        super().__init__(
            "None of the keys in security.encryption_key opens this. Give the process the key that it was sealed with "
            "(old keys stay in the list, behind the new one)."
        )


class Seal:
    """Locks and unlocks bytes. Raises ValueError for a key that is none; see `key_problem`."""

    def __init__(self, keys: Sequence[str]) -> None:
        # 34 ms and 7 MB of libraries, which only those pay who seal anything.
        from cryptography.fernet import Fernet, MultiFernet

        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def lock(self, raw: bytes) -> bytes:
        """`raw` sealed, as the bytes of a token (not in base 64: it travels in binary)."""
        return base64.urlsafe_b64decode(self._fernet.encrypt(raw))

    def unlock(self, sealed: bytes) -> bytes:
        """Raises `WrongKey`."""
        return self._open(base64.urlsafe_b64encode(sealed))

    def lock_value(self, text: bytes) -> bytes:
        """The JSON text of a value as the JSON text of a sealed one: a string."""
        return b'"' + MARK.encode() + self._fernet.encrypt(text) + b'"'

    def unlock_value(self, text: bytes) -> bytes:
        """What `lock_value` was given. Raises `WrongKey`, also for a string that is not sealed."""
        return self._open(text[len(MARK) + 1 : -1])

    def lock_file(self, document_id: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The content of a file, sealed: a line with the document's id, and one for each chunk."""
        yield _FILE_MARK + document_id.encode() + b"\n"
        number = 0
        held = b""
        for chunk in chunks:
            if held:
                yield self._line(number, False, held)
                number += 1
            held = chunk
        yield self._line(number, True, held)

    def unlock_file(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The content that `lock_file` was given. Raises `WrongKey`, at the latest when the file ends too early."""
        is_last = False
        for number, line in enumerate(lines, -1):
            if number < 0:
                continue
            opened = self._open(line.rstrip(b"\n"))
            at, is_last_here = _HEAD.unpack_from(opened)
            if at != number or is_last:
                raise WrongKey
            is_last = is_last_here
            yield opened[_HEAD.size :]
        if not is_last:
            raise WrongKey

    def _line(self, number: int, last: bool, chunk: bytes) -> bytes:
        return self._fernet.encrypt(_HEAD.pack(number, last) + chunk) + b"\n"

    def _open(self, token: bytes) -> bytes:
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(token)
        except (InvalidToken, binascii.Error):
            raise WrongKey from None


def chunks_of(descriptor: int) -> Iterator[bytes]:
    """The bytes of an open file, in the pieces in which it is sealed. Raises OSError."""
    while chunk := os.read(descriptor, _CHUNK):
        yield chunk


def is_sealed_file(beginning: bytes, document_id: str = "") -> bool:
    """Whether a file that begins so is sealed (and is that document's)."""
    return beginning.startswith(_FILE_MARK + document_id.encode() + (b"\n" if document_id else b""))


def is_sealed_value(text: bytes) -> bool:
    """Whether the JSON text of a string is that of a sealed value, as far as its beginning says."""
    return text.startswith(b'"' + MARK.encode())


def new_key() -> str:
    """A fresh key, for `security.encryption_key`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
