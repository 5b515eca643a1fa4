"""The names in a text, and which of them stand together."""

import re
from bisect import bisect_right
from dataclasses import dataclass

from llm_scheduler.ingest.router.geo.places import (
    AFTER,
    BLOCK,
    CITY,
    COMMON,
    COUNTRY,
    CUE,
    DEMONYM,
    HINT,
    LIKE_GIVEN,
    REGION,
    STEM,
    UPPER,
    Places,
    Sense,
    separate,
    spaced,
)
from llm_scheduler.ingest.router.text import Text

_MOST = 3_000  # more names than these say nothing new
_LEAST = 0.05
_MAX_GROUP = 4
_AFTER_REACH = 14  # and how far before "に本社" it may end, in scripts without spaces
_NEW_CLAUSE = re.compile(r"[\s.,;:、，。；：！？!?]|[A-Za-z]")
_OPENING = 60
_CUE_REACH = 32  # how far after "headquartered in" the place may begin
_NO_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_LETTER_BESIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff][^\\W\\d_\u3040-\uffff]{2}")
_ACTS_LIKE_PERSON = re.compile(
    r" (?:said|says|told|asked|wrote|thinks|loves|likes|scored|plays|played|(?:is|was) my|who)\b"
)
_IN_ADDRESSES = frozenset("@._")
_ADDRESSED = re.compile("さん|様|くん|ちゃん|先輩|氏(?![族名])|先生|女士|小姐|教授")
_KANA = re.compile("[\u30a1-\u30fa\u30fc]")
_HANGUL = re.compile("[\uac00-\ud7af]")
_STREET = re.compile(r"^(?:市|省)?[東西南北中东]?(?:路|街(?![頭头])|大道|大街|一路|二路|三路)")
_ENDING = re.compile("[аяоеийьыуюієїємх]{0,3}$")
_ENDS_SENTENCE = re.compile(r"[.!?;。！？；\n](?:\s|$)|[。！？；\n]")
_TOGETHER = re.compile(r"^(?:[\s,，、(\-–—]{0,3}|,? in (?:the )?|, the )$")
_LISTED = re.compile(r"^\s?(?:[,/、和與与及]|,? and |,? or |,? & | und | et | y | e | и )(?:the |in |an? )*\s?$")
_GOES_ON = re.compile(r"^[ -][A-Z][\w'’-]*(?:[ -][\w'’-]+){0,2}, $")  # a town's longer name
_POSTAL = re.compile(r"(,?)\s{1,2}([A-Z]{2,3})(?![A-Za-z])(\s\d{5})?")
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
    """One name, where it stands in the text and what it can mean there."""

    start: int
    end: int
    senses: tuple[Sense, ...]
    flags: int
    weight: float
    capital: bool


@dataclass(slots=True)
class Group:
    """Names that explain each other ("Austin, TX", "廣東省深圳市"), or one alone. `factor` is what words beside it
    make of its weight, `kind` what sort of clue it thereby is."""

    mentions: list[Mention]
    factor: float = 1.0
    kind: str = "name"

    @property
    def start(self) -> int:
        return self.mentions[0].start

    @property
    def end(self) -> int:
        return self.mentions[-1].end


@dataclass(slots=True)
class Found:
    """What `look` found: groups of places in order, and hints (mentions that speak for a country without a name)."""

    groups: list[Group]
    hints: list[Mention]


def look(text: Text, places: Places, fields: dict[int, float]) -> Found:
    """The names in `text`. `fields` are the numbers of the parts that hold nothing but a place."""
    return _Look(text, places, fields).found()


class _Look:
    def __init__(self, text: Text, places: Places, fields: dict[int, float]) -> None:
        self.whole = text.whole
        self.folded = text.folded
        self.places = places
        self.fields = fields
        self.starts = text.starts
        self.words = " " + spaced(text.folded) + " "
        self.cased = not (self.whole.isupper() or self.whole == self.folded)
        self.groups: list[Group] = []
        self.hints: list[Mention] = []
        self.cue = (-1, 1.0)
        self.bare = len(text.parts) == 1 and not text.parts[0].path

    def found(self) -> Found:
        words, ascii_only = self.words, self.words.isascii()
        for name, start, end in self.matches():
            if words[start] == " ":
                # A name of letters, after a space: most of what is found goes on as another word.
                if words[end] != " " and (
                    (ascii_only and words[end - 1] != "$") or not self.bounded(name, start, end - 1)
                ):
                    continue
                self.take(name, start, end - 1)
            elif self.bounded(name, start - 1, end - 1):  # an index of `words` is one more than that of `whole`
                self.take(name, start - 1, end - 1)
            if len(self.groups) + len(self.hints) > _MOST:
                break
        return Found(self.groups, self.hints)

    def matches(self) -> list[tuple[int, int, int]]:
        matches = self.places.automaton.find_matches_as_indexes(self.words)
        if not self.words.isascii() and _LETTER_BESIDE.search(self.words):
            # Latin letters right behind Chinese ones: again, without the latter.
            again = self.places.automaton.find_matches_as_indexes(_NO_SPACES.sub(" ", self.words))
            taken = {start for _, start, _ in matches}
            more = [each for each in again if each[1] not in taken and self.words[each[1]] != " "]
            matches = sorted([*matches, *more], key=lambda each: each[1])
        return matches

    def take(self, name: int, start: int, end: int) -> None:
        """One match, from `start` to `end` of `whole`."""
        named = self.places.named(name)
        kind = named.kind
        if kind == BLOCK:
            return
        if kind == CUE:
            self.cue = (end, self.places.cues[named.senses[0].number])
            return
        if kind == AFTER:
            self.after(start, self.places.cues[named.senses[0].number])
            return
        if self.groups and start < self.groups[-1].end:  # the letters of a state, read already
            return
        if named.flags & UPPER and not self.whole[start:end].isupper():
            return
        if named.only_hints:
            self.hints.append(Mention(start, end, named.senses, named.flags, 1.0, True))
            return
        if named.flags & STEM:
            while self.whole[end : end + 1].isalpha():
                end += 1
        beside = self.whole[end : end + 1] in _IN_ADDRESSES or (start and self.whole[start - 1] in _IN_ADDRESSES)
        if beside and self.in_address(start, end):
            return
        capital = not self.cased or not self.whole[start].islower()
        mention = Mention(start, end, named.senses, named.flags, named.weight, capital)
        mention.weight = self.weight(mention)
        # A word at the head of a sentence that is a village somewhere; before a comma its state or country may follow.
        if mention.weight >= _LEAST or (mention.weight > 0 and self.whole[end : end + 1] == ","):
            self.put(mention)

    def in_address(self, start: int, end: int) -> bool:
        """Whether it is a part of an address of the web or of mail, whose words mean little."""
        whole = self.whole
        if start > 1 and whole[start - 1] in "@._" and not whole[start - 2].isspace():
            return True
        return end + 1 < len(whole) and whole[end] in "@._" and whole[end + 1].islower()

    def bounded(self, name: int, start: int, end: int) -> bool:
        """Whether the match begins and ends where a name may."""
        words = self.words
        first, last, after = words[start + 1], words[end], words[end + 1 : end + 2]
        if first >= "\u0e00":  # a script that doesn't part words: syllables may go on
            if _KANA.match(first) and _KANA.match(words[start]):
                return False
            if _KANA.match(last) and after and _KANA.match(after):
                return False
            if _HANGUL.match(first):
                return not _HANGUL.match(words[start])
            return _STREET.match(words[end + 1 : end + 6]) is None or not _NO_SPACES.match(first)
        if not after or not separate(last) or not separate(after):
            return True
        if self.places.flags[name] & STEM:
            ending = end + 1
            while ending - end < 5 and words[ending : ending + 1].isalpha():
                ending += 1
            return ending - end < 5 and _ENDING.match(words[end + 1 : ending]) is not None
        return False

    # What one name weighs

    def weight(self, mention: Mention) -> float:
        senses, flags, weight = mention.senses, mention.flags, mention.weight
        if self.in_field(mention.start):
            return max(weight, 0.5)
        if self.bare and mention.start <= 1 and mention.end == len(self.whole):
            return max(weight, 0.5) if mention.capital or not flags & COMMON else 0.0
        common = flags & COMMON
        if self.whole[mention.start] >= "\u2e80":
            if _ADDRESSED.match(self.whole, mention.end):
                return weight * 0.05  # 河内さん is somebody, not Hanoi
            return weight * 0.05 if common and senses[0].kind == CITY else weight
        named = senses[0].kind in (COUNTRY, DEMONYM, HINT)
        if not mention.capital:
            if common:
                return 0.0
            if not named:
                large = senses[0].people >= 300_000 and mention.end - mention.start > 4
                weight = weight * 0.4 if large else 0.0
            return weight * 0.75
        if self.whole[mention.start] >= "\u0590":
            return weight
        if not self.cased and common:
            return weight * 0.1
        if common:
            begins = self.begins_sentence(mention.start)
            if named:
                # "Polish your shoes"
                weight *= 1.0 if not begins else 0.4 if senses[0].kind == DEMONYM else 0.6
            else:
                weight *= 0.1 if begins else 0.7 if senses[0].people >= 500_000 or senses[0].kind == REGION else 0.3
        return weight * self.like_person(mention)

    def like_person(self, mention: Mention) -> float:
        """Less than one for what is likely somebody's name."""
        if mention.senses[0].kind == DEMONYM:
            return 1.0
        space = mention.start - 1
        if space > 0 and self.whole[space] == " ":
            begin = max(self.whole.rfind(" ", 0, space), self.whole.rfind("\n", 0, space)) + 1
            if self.whole[begin].isupper():
                if self.folded[begin:space].rstrip(".") in self.places.given_names:
                    return 0.1
                before_sign = self.whole[space - 1]
                if mention.senses[0].kind == CITY and before_sign.isalpha() and not self.begins_sentence(begin):
                    return 0.6
        if mention.flags & LIKE_GIVEN:
            if _ACTS_LIKE_PERSON.match(self.folded, mention.end):
                return 0.2
            after = self.whole[mention.end : mention.end + 3]
            if after[:1] == " " and after[1:2].isupper() and not _POSTAL.match(self.whole, mention.end):
                return 0.35
        return 1.0

    def begins_sentence(self, start: int) -> bool:
        before = self.whole[max(0, start - 3) : start].rstrip(" ")
        return not before or before[-1] in ".!?\n:;•\"“'"

    def in_field(self, start: int) -> bool:
        return bool(self.fields) and bisect_right(self.starts, start) - 1 in self.fields

    # Which names stand together

    def put(self, mention: Mention) -> None:
        group = self.groups[-1] if self.groups else None
        end = group.mentions[-1].end if group is not None else 0
        if group is not None and 0 <= mention.start - end < 32:
            between = self.whole[end : mention.start]
            if _TOGETHER.match(between):
                if _join(group, mention):
                    self.postal(group)
                    return
                if between == ", " and self.is_told(group) and _overrule(group, mention):
                    return
            elif _GOES_ON.match(between) and self.is_told(group) and _overrule(group, mention):
                return
            if _LISTED.match(between) and group.factor <= 1.0:
                group.factor = min(group.factor, 0.7)
                made = self.begin(mention)
                made.factor = min(made.factor, 0.7) if made.factor <= 1.0 else made.factor
                return
        self.begin(mention)

    def is_told(self, group: Group) -> bool:
        """Whether the text itself says that this is the place."""
        return group.kind == "phrase" or self.in_field(group.start) or (self.starts[-1] == 0 and len(self.whole) < 60)

    def begin(self, mention: Mention) -> Group:
        if not mention.capital and any(sense.kind == DEMONYM for sense in mention.senses):
            # "la empresa española": in small letters it is no town in New Mexico.
            mention.senses = tuple(sense for sense in mention.senses if sense.kind == DEMONYM)
        group = Group([mention])
        self.groups.append(group)
        self.postal(group)
        end, factor = self.cue
        gap = mention.start - end
        if end >= 0 and 0 <= gap <= _CUE_REACH:
            between = self.whole[end : mention.start]
            if not _ENDS_SENTENCE.search(between) and between.count(" ") <= 4:
                group.factor, group.kind = factor, "phrase"
                self.cue = (-1, 1.0)
                return group
        if mention.senses[0].kind in (DEMONYM, COUNTRY):
            before = self.folded[max(0, mention.start - 48) : mention.start]
            if _IS_A.search(before):
                group.factor, group.kind = 4.0, "phrase"
            elif mention.senses[0].kind == DEMONYM and self.beside_a_firm(mention, before):
                group.factor = 2.5
            elif mention.senses[0].kind == DEMONYM and 0 < mention.start < _OPENING:
                group.factor = 1.8  # who is spoken of is named first
        if self.folded[max(0, mention.start - 4) : mention.start] in (" in ", "the "):
            group.factor *= 1.3
        return group

    def beside_a_firm(self, mention: Mention, before: str) -> bool:
        return bool(_FIRM.match(self.folded[mention.end : mention.end + 32]) or _FIRM_BEFORE.search(before))

    def after(self, start: int, factor: float) -> None:
        """A word that says something of the place before it."""
        group = self.groups[-1] if self.groups else None
        if group is None or start < group.end:
            return
        between = self.whole[group.end : start]
        near = len(between) <= 1 or (factor > 2 and len(between) <= _AFTER_REACH and not _NEW_CLAUSE.search(between))
        if not near:
            return
        if factor < 1:
            group.factor *= factor
        elif group.factor < factor:
            group.factor, group.kind = factor, "phrase"

    def postal(self, group: Group) -> None:
        """The letters of a state or a country behind a city: "Austin, TX", "Berlin, DE"."""
        last = group.mentions[-1]
        if not self.whole[last.end : last.end + 4].strip(", ")[:1].isupper():
            return
        found = _POSTAL.match(self.whole, last.end)
        if not found:
            return
        if not (found[1] or found[3] or self.cased):
            return
        code = found[2]
        states = self.places.region_codes.get(code, [])
        country = self.places.number_of.get({"UK": "GB"}.get(code, code))
        cities = [sense for sense in last.senses if sense.kind == CITY]
        there = [sense for sense in cities if sense.region - 1 in states]
        if not there and cities and (not states or cities[0].country == country):
            there = [sense for sense in cities if sense.country == country]
        if there:
            last.weight = max(last.weight, 1.6)
            last.senses = tuple(sense for sense in there if sense.region == there[0].region)
        elif states and found[1] and last.senses[0].kind != DEMONYM:
            home, _ = self.places.regions[states[0]]
            last.weight = max(last.weight, 1.2)
            last.senses = (Sense(REGION, states[0], home, states[0] + 1, 0, 0),)
        else:
            return
        last.end = found.end(2)


def _join(group: Group, mention: Mention) -> bool:
    """Whether `mention` and the last of `group` are one within the other. Then both mean what makes them so."""
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
    strongest = max(last.weight, mention.weight)
    last.weight = mention.weight = min(2.0, max(1.3, strongest * 1.3))
    group.mentions.append(mention)
    return True


def _overrule(group: Group, mention: Mention) -> bool:
    """A country or a state behind a town not known to be there ("Palermo, Argentina"): it is another town."""
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
