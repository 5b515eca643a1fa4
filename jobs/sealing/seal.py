"""Encryption with Fernet (AES-128-CBC and HMAC-SHA256, https://github.com/fernet/spec) and a list of keys.

The first key seals, all keys open. To change keys, put the new key first, and keep the old one while anything is sealed
with it.
"""

import base64
import binascii
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

MARK = "fernet:"  # the beginning of a sealed value, before its token
_FILE_MARK = b"fernet-file:1:"  # the beginning of a sealed file, before the id of its document
_CHUNK = 1024 * 1024
_HEAD = struct.Struct(">Q?")  # number of a chunk, and whether it is the last: none can be moved or removed


class WrongKey(Exception):
    """None of the keys opens a sealed value or file, or it was changed after it was sealed."""

    def __init__(self) -> None:
        super().__init__(
            "None of the keys in security.encryption_key opens this. Give the process the key that it was sealed with "
            "(old keys stay in the list, behind the new one)."
        )


class Seal:
    """Seals and opens bytes. Raises ValueError for an invalid key."""

    def __init__(self, keys: Sequence[str]) -> None:
        # Imported late: 34 ms and 7 MB, which only a process that seals needs.
        from cryptography.fernet import Fernet, MultiFernet

        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def lock(self, raw: bytes) -> bytes:
        """`raw` sealed, as the bytes of a token, not in base 64."""
        return base64.urlsafe_b64decode(self._fernet.encrypt(raw))

    def unlock(self, sealed: bytes) -> bytes:
        """The bytes that `lock` sealed. Raises `WrongKey`."""
        return self._open(base64.urlsafe_b64encode(sealed))

    def lock_value(self, text: bytes) -> bytes:
        """The JSON text of a value, sealed as the JSON text of a string."""
        return b'"' + MARK.encode() + self._fernet.encrypt(text) + b'"'

    def unlock_value(self, text: bytes) -> bytes:
        """The JSON text that `lock_value` sealed. Raises `WrongKey`, also for a string that is not sealed."""
        return self._open(text[len(MARK) + 1 : -1])

    def lock_file(self, document_id: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The sealed content of a file: a line with the document's id, then a line for each chunk."""
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
        """The content that `lock_file` sealed. Raises `WrongKey`, also at the end when chunks are missing."""
        ended = False
        for number, line in enumerate(islice(lines, 1, None)):
            opened = self._open(line.rstrip(b"\n"))
            own_number, is_last = _HEAD.unpack_from(opened)
            if own_number != number or ended:
                raise WrongKey
            ended = is_last
            yield opened[_HEAD.size :]
        if not ended:
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
    """The bytes of an open file, in chunks of the size that is sealed. Raises OSError."""
    while chunk := os.read(descriptor, _CHUNK):
        yield chunk


def is_sealed_file(beginning: bytes, document_id: str = "") -> bool:
    """Whether a file with this beginning is sealed, and belongs to `document_id` if that is given."""
    return beginning.startswith(_FILE_MARK + document_id.encode() + (b"\n" if document_id else b""))


def is_sealed_value(text: bytes) -> bool:
    """Whether the JSON text of a string begins like that of a sealed value."""
    return text.startswith(b'"' + MARK.encode())


def new_key() -> str:
    """A new random key for `security.encryption_key`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
