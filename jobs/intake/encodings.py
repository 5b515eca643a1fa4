"""From bytes to text: UTF-8, else the encoding that the first bytes show, else cp1252 as a guess with a receipt."""

import re
import unicodedata

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary
from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.rejection import IntakeRejection, position_after

# Byte-order marks (https://www.unicode.org/faq/utf_bom.html). UTF-32 comes before UTF-16, which begins the same.
_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
# NUL bytes (0) among the first four of a JSON text, whose first two characters are ASCII (RFC 4627 section 3).
_NULS = {
    "000x": "utf-32-be",
    "x000": "utf-32-le",
    "0x0x": "utf-16-be",
    "x0x0": "utf-16-le",
}
_WHITE = " \t\r\n\ufeff"
_END_MARKS = "\x00\x1a"  # C programs and CP/M write them after a text
_HIGH_RUN = re.compile(rb"[\x80-\xff]{3,}")
_MAX_HIGH = 0.2  # share of bytes above 0x7F in a cp1252 text


def decode(raw: bytes) -> Draft:
    """The text of `raw` without surrounding white space, with a receipt for anything but plain UTF-8.

    Raises `IntakeRejection` for binary files, and for bytes that fit no encoding.
    """
    kind = binary.format_of(raw)
    if kind and kind.name != "mp3":  # 0xFF 0xFB may also begin UTF-16
        raise kind.rejection()
    encoding, content = _encoding(raw)
    codes: list[tuple[str, str, str]] = []
    cut = False
    if encoding == "utf-8":
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and error.end == len(content):
                text, cut = content[: error.start].decode(), True
                codes.append(("cut_character", content[error.start :].hex(" "), ""))
            else:
                text = _as_cp1252(raw, content, error)
                codes.append(("cp1252_guess", f"byte 0x{content[error.start]:02x}", text[error.start]))
    else:
        unit = 4 if "32" in encoding else 2
        whole = content[: len(content) // unit * unit]
        try:
            text = whole.decode(encoding)
        except UnicodeDecodeError as error:
            raise IntakeRejection(Code.ENCODING, f"The text is damaged {encoding.upper()}: {error.reason}.") from None
        cut = len(whole) < len(content)
        codes.append((encoding.replace("-", "_"), "", ""))
    bare = text.rstrip(_WHITE + _END_MARKS)
    if any(end in text[len(bare) :] for end in _END_MARKS):
        codes.append(("end_marks", text[len(bare) :].strip(_WHITE), ""))
    if "\x00" in bare:
        position = position_after(bare[: bare.index("\x00")].encode("utf-8", "replace"))
        raise IntakeRejection(Code.BINARY, "The file holds NUL bytes, so it is not JSON text.", position)
    bare = bare.lstrip(_WHITE)
    draft = Draft(bare, bare, cut=cut)
    receipts = tuple(draft.receipt("encoding", code, 0, before, after) for code, before, after in codes)
    return Draft(bare, bare, repairs=receipts, cut=cut)


def _encoding(raw: bytes) -> tuple[str, bytes]:
    """The encoding that the first bytes of `raw` show, and `raw` without a byte-order mark."""
    for mark, name in _MARKS.items():
        if raw.startswith(mark):
            return name, raw[len(mark) :]
    nuls = "".join("0" if byte == 0 else "x" for byte in raw[:4])
    return _NULS.get(nuls, "utf-8"), raw


def _as_cp1252(raw: bytes, content: bytes, error: UnicodeDecodeError) -> str:
    """`content` as cp1252, if it looks like it: single accented letters among ASCII. Raises `IntakeRejection`."""
    high = sum(byte >= 0x80 for byte in content)
    rejection = IntakeRejection(
        Code.ENCODING,
        f"The text is not UTF-8: byte 0x{content[error.start]:02x} is not valid here.",
        position_after(raw[: len(raw) - len(content) + error.start]),
    )
    # If some characters are valid UTF-8, the text mixes two encodings, and neither is certain.
    mixed = not content.decode("utf-8", "ignore").isascii()
    if high > _MAX_HIGH * len(content) or _HIGH_RUN.search(content) or mixed:
        raise rejection
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise rejection from None
    if any(ord(char) >= 0x80 and unicodedata.category(char) not in _LIKELY for char in text):
        raise rejection
    return text


# Unicode categories of non-ASCII characters in western texts: letters, punctuation, symbols and currencies.
_LIKELY = frozenset({"Ll", "Lu", "Pd", "Pi", "Pf", "Po", "Ps", "Sc", "So", "Zs", "Lo", "No", "Sm", "Sk"})
