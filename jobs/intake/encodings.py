"""From bytes to text: UTF-8, else what the bytes say of themselves, else one recorded guess."""

import re
import unicodedata

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary
from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.rejection import Refused, position_at

# Byte-order marks (https://www.unicode.org/faq/utf_bom.html); the longer ones first, one begins like another.
_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
# Where NUL bytes stand in the first four of a JSON text, whose first two characters are ASCII (RFC 4627 section 3).
_NULS = {
    "000x": "utf-32-be",
    "x000": "utf-32-le",
    "0x0x": "utf-16-be",
    "x0x0": "utf-16-le",
}
_WHITE = " \t\r\n\ufeff"
_ENDS = "\x00\x1a"  # what C programs and CP/M put behind a text
_RUN_OF_HIGH = re.compile(rb"[\x80-\xff]{3,}")
_MAX_HIGH = 0.2  # of the bytes of a text in cp1252


def decode(raw: bytes) -> Draft:
    """The text in `raw`, white space around it left out, with a receipt for whatever is not plain UTF-8.

    Raises `Refused` for binary files and bytes that no encoding explains.
    """
    kind = binary.kind_of(raw)
    if kind and kind.name != "mp3":  # 0xFF 0xFB may begin UTF-16, too
        raise kind.refusal()
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
                text = _guess(raw, content, error)
                codes.append(("cp1252_guess", f"byte 0x{content[error.start]:02x}", text[error.start]))
    else:
        unit = 4 if "32" in encoding else 2
        whole = content[: len(content) // unit * unit]
        try:
            text = whole.decode(encoding)
        except UnicodeDecodeError as error:
            raise Refused(Code.ENCODING, f"The text is {encoding.upper()}, and damaged: {error.reason}.") from None
        cut = len(whole) < len(content)
        codes.append((encoding.replace("-", "_"), "", ""))
    bare = text.rstrip(_WHITE + _ENDS)
    if any(end in text[len(bare) :] for end in _ENDS):
        codes.append(("end_marks", text[len(bare) :].strip(_WHITE), ""))
    if "\x00" in bare:
        place = position_at(bare.encode("utf-8", "replace"), len(bare[: bare.index("\x00")].encode("utf-8", "replace")))
        raise Refused(Code.BINARY, "The file holds NUL bytes, so it is not JSON text.", place)
    bare = bare.lstrip(_WHITE)
    draft = Draft(bare, bare, cut=cut)
    receipts = tuple(draft.receipt("encoding", code, 0, before, after) for code, before, after in codes)
    return Draft(bare, bare, repairs=receipts, cut=cut)


def _encoding(raw: bytes) -> tuple[str, bytes]:
    for mark, name in _MARKS.items():
        if raw.startswith(mark):
            return name, raw[len(mark) :]
    nuls = "".join("0" if byte == 0 else "x" for byte in raw[:4])
    return _NULS.get(nuls, "utf-8"), raw


def _guess(raw: bytes, content: bytes, error: UnicodeDecodeError) -> str:
    """`content` as cp1252, if it looks like it: single letters with accents among ASCII. Raises `Refused`."""
    high = sum(byte >= 0x80 for byte in content)
    byte = f"0x{content[error.start]:02x}"
    refusal = Refused(
        Code.ENCODING,
        f"The text is not UTF-8: byte {byte} stands where it can't.",
        position_at(raw, len(raw) - len(content) + error.start),
    )
    mixed = any(0xC0 <= byte <= 0xF4 for byte in content) and _holds_utf8(content)
    if high > _MAX_HIGH * len(content) or _RUN_OF_HIGH.search(content) or mixed:
        raise refusal
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise refusal from None
    odd = [char for char in text if ord(char) >= 0x80 and unicodedata.category(char) not in _LIKELY]
    if odd:
        raise refusal
    return text


# Letters, and the punctuation, signs and currencies that western texts have.
_LIKELY = frozenset({"Ll", "Lu", "Pd", "Pi", "Pf", "Po", "Ps", "Sc", "So", "Zs", "Lo", "No", "Sm", "Sk"})


def _holds_utf8(content: bytes) -> bool:
    """Whether some characters are UTF-8 all the same: then the text is neither, and nobody can tell what is meant."""
    return any(ord(char) >= 0x80 for char in content.decode("utf-8", "ignore"))
