"""Binary files, recognised by their first bytes, and gzip."""

import zlib
from typing import NamedTuple

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake.rejection import IntakeRejection


class BinaryFormat(NamedTuple):
    """A binary format that people drop by mistake. `offset` is that of its magic number."""

    name: str
    description: str
    offset: int = 0

    def rejection(self) -> IntakeRejection:
        return IntakeRejection(Code.BINARY, f"The file is {self.description}, not JSON text.", kind=self.name)


# First bytes: https://www.iana.org/assignments/media-types and each format's own specification.
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": BinaryFormat("png", "a PNG image"),
    b"\xff\xd8\xff": BinaryFormat("jpeg", "a JPEG image"),
    b"GIF8": BinaryFormat("gif", "a GIF image"),
    b"BM\x00": BinaryFormat("bmp", "a BMP image"),
    b"II*\x00": BinaryFormat("tiff", "a TIFF image"),
    b"MM\x00*": BinaryFormat("tiff", "a TIFF image"),
    b"%PDF-": BinaryFormat("pdf", "a PDF file"),
    b"PK\x03\x04": BinaryFormat("zip", "a ZIP archive or an Office file"),
    b"PK\x05\x06": BinaryFormat("zip", "an empty ZIP archive"),
    b"\x1f\x8b": BinaryFormat("gzip", "a gzip file"),
    b"BZh": BinaryFormat("bzip2", "a bzip2 file"),
    b"\xfd7zXZ\x00": BinaryFormat("xz", "an xz file"),
    b"(\xb5/\xfd": BinaryFormat("zstd", "a zstd file"),
    b"7z\xbc\xaf\x27\x1c": BinaryFormat("7z", "a 7z archive"),
    b"Rar!\x1a\x07": BinaryFormat("rar", "a RAR archive"),
    b"\x7fELF": BinaryFormat("elf", "an ELF program"),
    b"MZ\x90\x00": BinaryFormat("exe", "a Windows program"),
    b"\xca\xfe\xba\xbe": BinaryFormat("class", "a Java class or a macOS program"),
    b"\x00asm": BinaryFormat("wasm", "a WebAssembly program"),
    b"SQLite format 3\x00": BinaryFormat("sqlite", "an SQLite database"),
    b"PAR1": BinaryFormat("parquet", "a Parquet file"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": BinaryFormat("ole", "an old Office file"),
    b"OggS": BinaryFormat("ogg", "an Ogg file"),
    b"ID3": BinaryFormat("mp3", "an MP3 file"),
    b"\xff\xfb": BinaryFormat("mp3", "an MP3 file"),
    b"\x80\x04\x95": BinaryFormat("pickle", "a Python pickle"),
    b"\x93NUMPY": BinaryFormat("npy", "a NumPy array"),
    b"WEBP": BinaryFormat("webp", "a WebP image", 8),
    b"WAVE": BinaryFormat("wav", "a WAVE file", 8),
    b"ftyp": BinaryFormat("mp4", "an MP4 file", 4),
    b"ustar": BinaryFormat("tar", "a tar archive", 257),
}
_MAX_MEMBERS = 1000  # of one gzip file; each costs a copy of the bytes after it
GZIP = b"\x1f\x8b"


def format_of(raw: bytes) -> BinaryFormat | None:
    """The binary format of `raw`; None for text and unknown formats."""
    return next((kind for magic, kind in _MAGIC.items() if raw.startswith(magic, kind.offset)), None)


def is_text(raw: bytes) -> bool:
    """Whether `raw` may be text: it is not empty, and not of a known binary format."""
    return bool(raw.strip()) and format_of(raw) is None


def gunzip(raw: bytes, max_bytes: int) -> bytes:
    """The content of a gzip file (RFC 1952), which may have several members.

    Raises `IntakeRejection` when it is damaged, cut off, or larger than `max_bytes`.
    """
    whole = bytearray()
    for _ in range(_MAX_MEMBERS):
        if not raw:
            break
        if not raw.startswith(GZIP):
            if raw.strip(b"\x00"):
                raise IntakeRejection(Code.BINARY, "The gzip data are followed by other data.", kind="gzip")
            break  # padding, as on tapes
        inflate = zlib.decompressobj(wbits=31)
        try:
            whole += inflate.decompress(raw, max_bytes + 1 - len(whole))
        except zlib.error as error:
            raise IntakeRejection(Code.BINARY, f"The gzip data are damaged ({error}).", kind="gzip") from None
        if len(whole) > max_bytes:
            raise IntakeRejection(Code.TOO_LARGE, f"The gzip file holds more than {max_bytes} bytes.")
        if not inflate.eof:
            raise IntakeRejection(Code.BINARY, "The gzip data end too early.", kind="gzip")
        raw = inflate.unused_data
    else:
        raise IntakeRejection(Code.BINARY, f"The gzip file has more than {_MAX_MEMBERS} members.", kind="gzip")
    return bytes(whole)
