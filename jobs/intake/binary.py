"""Files that are no text, known by their first bytes."""

import zlib
from typing import NamedTuple

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake.rejection import Refused


class Kind(NamedTuple):
    """A format that people drop by mistake."""

    name: str
    words: str

    def refusal(self) -> Refused:
        return Refused(Code.BINARY, f"The file is {self.words}, not JSON text.", kind=self.name)


# First bytes: https://www.iana.org/assignments/media-types and each format's own specification.
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": Kind("png", "a PNG image"),
    b"\xff\xd8\xff": Kind("jpeg", "a JPEG image"),
    b"GIF8": Kind("gif", "a GIF image"),
    b"BM\x00": Kind("bmp", "a BMP image"),
    b"II*\x00": Kind("tiff", "a TIFF image"),
    b"MM\x00*": Kind("tiff", "a TIFF image"),
    b"%PDF-": Kind("pdf", "a PDF file"),
    b"PK\x03\x04": Kind("zip", "a ZIP archive or an Office file"),
    b"PK\x05\x06": Kind("zip", "an empty ZIP archive"),
    b"\x1f\x8b": Kind("gzip", "a gzip file"),
    b"BZh": Kind("bzip2", "a bzip2 file"),
    b"\xfd7zXZ\x00": Kind("xz", "an xz file"),
    b"(\xb5/\xfd": Kind("zstd", "a zstd file"),
    b"7z\xbc\xaf\x27\x1c": Kind("7z", "a 7z archive"),
    b"Rar!\x1a\x07": Kind("rar", "a RAR archive"),
    b"\x7fELF": Kind("elf", "an ELF program"),
    b"MZ\x90\x00": Kind("exe", "a Windows program"),
    b"\xca\xfe\xba\xbe": Kind("class", "a Java class or a macOS program"),
    b"\x00asm": Kind("wasm", "a WebAssembly program"),
    b"SQLite format 3\x00": Kind("sqlite", "an SQLite database"),
    b"PAR1": Kind("parquet", "a Parquet file"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": Kind("ole", "an old Office file"),
    b"OggS": Kind("ogg", "an Ogg file"),
    b"ID3": Kind("mp3", "an MP3 file"),
    b"\xff\xfb": Kind("mp3", "an MP3 file"),
    b"\x80\x04\x95": Kind("pickle", "a Python pickle"),
    b"\x93NUMPY": Kind("npy", "a NumPy array"),
}
_AT = {  # formats whose mark comes later: offset, bytes
    (8, b"WEBP"): Kind("webp", "a WebP image"),
    (8, b"WAVE"): Kind("wav", "a WAVE file"),
    (4, b"ftyp"): Kind("mp4", "an MP4 file"),
    (257, b"ustar"): Kind("tar", "a tar archive"),
}
_MEMBERS = 1000  # of one gzip file; each costs a copy of what follows it
GZIP = b"\x1f\x8b"


def kind_of(raw: bytes) -> Kind | None:
    """What `raw` is, when its first bytes say so; None for anything else, text included."""
    for magic, kind in _MAGIC.items():
        if raw.startswith(magic):
            return kind
    for (place, mark), kind in _AT.items():
        if raw.startswith(mark, place):
            return kind
    return None


def is_text(raw: bytes) -> bool:
    """Whether `raw` may be a text: it is not empty, and no known binary format."""
    return bool(raw.strip()) and kind_of(raw) is None


def gunzip(raw: bytes, most: int) -> bytes:
    """What is in a gzip file (RFC 1952), one member after the other. Raises `Refused`: damaged, cut, or over `most`."""
    whole = bytearray()
    for _ in range(_MEMBERS):
        if not raw:
            break
        if not raw.startswith(GZIP):
            if raw.strip(b"\x00"):
                raise Refused(Code.BINARY, "Behind the end of the gzip data stands something else.", kind="gzip")
            break  # padding, as tapes have it
        inflate = zlib.decompressobj(wbits=31)
        try:
            whole += inflate.decompress(raw, most + 1 - len(whole))
        except zlib.error as error:
            raise Refused(Code.BINARY, f"The gzip data are damaged ({error}).", kind="gzip") from None
        if len(whole) > most:
            raise Refused(Code.TOO_LARGE, f"The gzip file holds more than {most} bytes.")
        if not inflate.eof:
            raise Refused(Code.BINARY, "The gzip data end too early.", kind="gzip")
        raw = inflate.unused_data
    else:
        raise Refused(Code.BINARY, f"The gzip file has more than {_MEMBERS} members.", kind="gzip")
    return bytes(whole)
