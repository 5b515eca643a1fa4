"""What the router finds out about a document before it applies any rule, and the clues for it."""

import msgspec

MAX_CLUES = 8  # for each signal, where the router explains its decisions


class Clue(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One clue in a document.

    `kind` is its sort (`field`, `phrase`, `name`, `phone`, ...), `text` its words as written, `says` what they
    indicate (a country's code, a section's letter), `weight` how much they count. `pointer` is the JSON pointer of the
    string that holds them, `offset` their position in it, in characters.
    """

    kind: str
    text: str
    says: str
    weight: float
    pointer: str = ""
    offset: int = 0


class Geo(msgspec.Struct, frozen=True, kw_only=True):
    """The place that a document is about. `country` is an ISO 3166-1 alpha-2 code; None: unknown.

    `confidence`, from 0 to 1, is the expected share of right answers among those with this confidence.
    """

    country: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    confidence: float = 0.0
    evidence: list[Clue] = []


class Industry(msgspec.Struct, frozen=True, kw_only=True):
    """The industry that a document is about. None: unknown, or not sure enough.

    `section` (A to U) and `division` (two digits) are those of ISIC Rev. 4. `label` is the section's name, or the
    operator's own label if a model with such labels is in use.
    """

    section: str | None = None
    division: str | None = None
    label: str | None = None
    confidence: float = 0.0
    evidence: list[Clue] = []


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """`code` is an ISO 639-1 code, with the script for Chinese (`zh-Hans`, `zh-Hant`)."""

    code: str | None = None
    confidence: float = 0.0


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """All signals of one document."""

    geo: Geo = Geo()
    industry: Industry = Industry()
    language: Language = Language()
