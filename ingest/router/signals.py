"""What the router finds out about a document before any rule is asked, and what each finding rests on."""

import msgspec


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing in a document that counted.

    `kind` says what sort of clue it is (`field`, `phrase`, `name`, `phone`, ...), `text` are the words as they stand
    there, `says` what they speak for (a country's code, a section's letter), `weight` how much. `pointer` is the JSON
    pointer of the string they are in, `offset` the place there in characters.
    """

    kind: str
    text: str
    says: str
    weight: float
    pointer: str = ""
    offset: int = 0


class Geo(msgspec.Struct, frozen=True, kw_only=True):
    """The place that a document is about. `country` is an ISO 3166-1 alpha-2 code; None: not known.

    `confidence` is from 0 to 1: the share of answers this sure that are right.
    """

    country: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    confidence: float = 0.0
    evidence: list[Evidence] = []


class Industry(msgspec.Struct, frozen=True, kw_only=True):
    """The line of business. `section` (A to U) and `division` (two digits) are of ISIC Rev. 4; `label` is the section's
    name, or the operator's own label where a model for those is in use. None: not sure enough, or not known.
    """

    section: str | None = None
    division: str | None = None
    label: str | None = None
    confidence: float = 0.0
    evidence: list[Evidence] = []


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """`code` is an ISO 639-1 code, with the script where one language has two (`zh-Hans`, `zh-Hant`)."""

    code: str | None = None
    confidence: float = 0.0


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    geo: Geo = Geo()
    industry: Industry = Industry()
    language: Language = Language()
