"""Which names in a text belong together ("Austin, TX"), and what the words around them add to their weight."""

import re
from bisect import bisect_right
from dataclasses import dataclass

from llm_scheduler.ingest.router.geo.places import CITY, COUNTRY, DEMONYM, REGION, Places, Sense
from llm_scheduler.ingest.router.text import Text

_MAX_GROUP = 4  # mentions
_CUE_REACH = 32  # characters between "headquartered in" and the place
_SUFFIX_REACH = 14  # characters between the place and "に本社", in scripts without spaces
_OPENING = 60  # characters
_NEW_CLAUSE = re.compile(r"[\s.,;:、，。；：！？!?]|[A-Za-z]")
_ENDS_SENTENCE = re.compile(r"[.!?;。！？；\n](?:\s|$)|[。！？；\n]")
_JOINED = re.compile(r"^(?:[\s,，、(\-–—]{0,3}|,? in (?:the )?|, the )$")
_LISTED = re.compile(r"^\s?(?:[,/、和與与及]|,? and |,? or |,? & | und | et | y | e | и )(?:the |in |an? )*\s?$")
_LONGER_NAME = re.compile(r"^[ -][A-Z][\w'’-]*(?:[ -][\w'’-]+){0,2}, $")  # the rest of a town's name, and a comma
# A comma, the letters of a state or a country, digits.
POSTAL_CODE = re.compile(r"(,?)\s{1,2}([A-Z]{2,3})(?![A-Za-z])(\s\d{5})?")
_IS_A = re.compile(r"(?:(?:\bis|\bare|\bwas|\bas)\s(?:an?|the|one of the)|,\san?)(?:\s[\w-]+){0,3}?\s$")
_FIRM = re.compile(
    r"^ (?:company|firm|corporation|multinational|manufacturer|maker|bank|conglomerate|retailer|group|start-?up|brand"
    r"|unternehmen|konzern|hersteller|firma|\w*(?:hersteller|konzern|anbieter|unternehmen|gruppe))\b"
)
# Where the word for the firm comes first: "le groupe français", "la empresa chilena".
_FIRM_BEFORE = re.compile(
    r"\b(?:groupe|société|entreprise|constructeur|fabricant|banque|compagnie|maison|startup|start-up|éditeur|géant"
    r"|empresa|compañía|fabricante|grupo|banco|firma|cadena|estatal|multinacional|azienda|società|gruppo|casa)"
    r"(?: \w+)? $"
)


@dataclass(slots=True)
class Mention:
    """One name in a text: its position, and what it can mean there."""

    start: int
    end: int
    senses: tuple[Sense, ...]
    flags: int
    weight: float
    capital: bool


@dataclass(slots=True)
class Group:
    """Names that explain each other ("Austin, TX", "廣東省深圳市"), or one alone. The words around it multiply its
    weight by `factor` and decide its `kind` of clue."""

    mentions: list[Mention]
    factor: float = 1.0
    kind: str = "name"

    @property
    def start(self) -> int:
        return self.mentions[0].start

    @property
    def end(self) -> int:
        return self.mentions[-1].end


class Groups:
    """The groups of one text. Mentions and phrases are added in the order of the text."""

    def __init__(self, text: Text, places: Places, fields: dict[int, float]) -> None:
        self.whole = text.whole
        self.folded = text.folded
        self.starts = text.starts
        self.places = places
        self.fields = fields
        self.cased = not (self.whole.isupper() or self.whole == self.folded)  # whether capitals mean anything here
        self.groups: list[Group] = []
        self.cue = (-1, 1.0)  # the end and the factor of the last phrase that introduces a place ("headquartered in")

    def add(self, mention: Mention) -> None:
        group = self.groups[-1] if self.groups else None
        end = group.mentions[-1].end if group is not None else 0
        if group is not None and 0 <= mention.start - end < 32:
            between = self.whole[end : mention.start]
            if _JOINED.match(between):
                if _join(group, mention):
                    self._read_postal_code(group)
                    return
                if between == ", " and self._is_stated(group) and _overrule(group, mention):
                    return
            elif _LONGER_NAME.match(between) and self._is_stated(group) and _overrule(group, mention):
                return
            if _LISTED.match(between) and group.factor <= 1.0:
                group.factor = min(group.factor, 0.7)
                begun = self._begin(mention)
                begun.factor = min(begun.factor, 0.7) if begun.factor <= 1.0 else begun.factor
                return
        self._begin(mention)

    def add_suffix(self, start: int, factor: float) -> None:
        """A phrase about the place before it ("-based") begins at `start`."""
        group = self.groups[-1] if self.groups else None
        if group is None or start < group.end:
            return
        between = self.whole[group.end : start]
        near = len(between) <= 1 or (factor > 2 and len(between) <= _SUFFIX_REACH and not _NEW_CLAUSE.search(between))
        if not near:
            return
        if factor < 1:
            group.factor *= factor
        elif group.factor < factor:
            group.factor, group.kind = factor, "phrase"

    def in_field(self, start: int) -> bool:
        """Whether the part with offset `start` is a field for places."""
        return bool(self.fields) and bisect_right(self.starts, start) - 1 in self.fields

    def _is_stated(self, group: Group) -> bool:
        """Whether the text itself says that this is the place."""
        return group.kind == "phrase" or self.in_field(group.start) or (self.starts[-1] == 0 and len(self.whole) < 60)

    def _begin(self, mention: Mention) -> Group:
        if not mention.capital and any(sense.kind == DEMONYM for sense in mention.senses):
            # "la empresa española": in small letters it is not the town in New Mexico.
            mention.senses = tuple(sense for sense in mention.senses if sense.kind == DEMONYM)
        group = Group([mention])
        self.groups.append(group)
        self._read_postal_code(group)
        end, factor = self.cue
        gap = mention.start - end
        if end >= 0 and 0 <= gap <= _CUE_REACH:
            between = self.whole[end : mention.start]
            if not _ENDS_SENTENCE.search(between) and between.count(" ") <= 4:
                group.factor, group.kind = factor, "phrase"
                self.cue = (-1, 1.0)
                return group
        kind = mention.senses[0].kind
        if kind in (DEMONYM, COUNTRY):
            before = self.folded[max(0, mention.start - 48) : mention.start]
            if _IS_A.search(before):
                group.factor, group.kind = 4.0, "phrase"
            elif kind == DEMONYM:
                if _FIRM.match(self.folded[mention.end : mention.end + 32]) or _FIRM_BEFORE.search(before):
                    group.factor = 2.5
                elif 0 < mention.start < _OPENING:
                    group.factor = 1.8  # the subject of a text is named first
        if self.folded[max(0, mention.start - 4) : mention.start] in (" in ", "the "):
            group.factor *= 1.3
        return group

    def _read_postal_code(self, group: Group) -> None:
        """Read the letters of a state or a country behind a city: "Austin, TX", "Berlin, DE"."""
        last = group.mentions[-1]
        if not self.whole[last.end : last.end + 4].strip(", ")[:1].isupper():
            return
        match = POSTAL_CODE.match(self.whole, last.end)
        if not match or not (match[1] or match[3] or self.cased):
            return
        code = match[2]
        states = self.places.region_codes.get(code, [])
        country = self.places.country_numbers.get("GB" if code == "UK" else code)
        cities = [sense for sense in last.senses if sense.kind == CITY]
        there = [sense for sense in cities if sense.region - 1 in states]
        if not there and cities and (not states or cities[0].country == country):
            there = [sense for sense in cities if sense.country == country]
        if there:
            last.weight = max(last.weight, 1.6)
            last.senses = tuple(sense for sense in there if sense.region == there[0].region)
        elif states and match[1] and last.senses[0].kind != DEMONYM:
            home, _ = self.places.regions[states[0]]
            last.weight = max(last.weight, 1.2)
            last.senses = (Sense(REGION, states[0], home, states[0] + 1, 0, 0),)
        else:
            return
        last.end = match.end(2)


def _join(group: Group, mention: Mention) -> bool:
    """Join `mention` to the group if one of it and the last mention lies within the other. Both then keep only the
    senses that make this true."""
    last = group.mentions[-1]
    if len(group.mentions) >= _MAX_GROUP:
        return False
    pairs = [(one, other) for one in last.senses for other in mention.senses if _within(one, other)]
    if not pairs:
        return False
    last.senses = tuple(dict.fromkeys(one for one, _ in pairs))
    mention.senses = tuple(dict.fromkeys(other for _, other in pairs))
    for earlier in group.mentions[:-1]:
        earlier.senses = (
            tuple(one for one in earlier.senses if any(_within(one, other) or one == other for other in last.senses))
            or earlier.senses
        )
    last.weight = mention.weight = min(2.0, max(1.3, max(last.weight, mention.weight) * 1.3))
    group.mentions.append(mention)
    return True


def _overrule(group: Group, mention: Mention) -> bool:
    """Join a country or a state behind a town that is not known to be there ("Palermo, Argentina"): it is another
    town of that name."""
    senses = tuple(sense for sense in mention.senses if sense.kind in (COUNTRY, REGION))
    last = group.mentions[-1]
    if not senses or any(sense.kind != CITY for sense in last.senses):
        return False
    mention.senses = last.senses = senses
    mention.weight = max(1.2, mention.weight)
    group.mentions.append(mention)
    return True


def _within(one: Sense, other: Sense) -> bool:
    if one.country != other.country or one.country < 0:
        return False
    kinds = {one.kind, other.kind}
    if kinds == {CITY, REGION}:
        return not one.region or not other.region or one.region == other.region
    return COUNTRY in kinds and kinds != {COUNTRY} and DEMONYM not in kinds
