"""The names of places in a text, and how much each weighs by itself."""

import re

from llm_scheduler.ingest.router.geo.mention_groups import POSTAL_CODE, Group, Groups, Mention
from llm_scheduler.ingest.router.geo.places import (
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
    SUFFIX,
    UPPER,
    Places,
    is_spaced_letter,
    spaced,
)
from llm_scheduler.ingest.router.text import Text

_MAX_MENTIONS = 3_000  # more add nothing new
_MIN_WEIGHT = 0.05
_NO_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_LETTER_BESIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff][^\\W\\d_\u3040-\uffff]{2}")
_ACTS_LIKE_PERSON = re.compile(
    r" (?:said|says|told|asked|wrote|thinks|loves|likes|scored|plays|played|(?:is|was) my|who)\b"
)
_IN_ADDRESSES = frozenset("@._")
_FORM_OF_ADDRESS = re.compile("さん|様|くん|ちゃん|先輩|氏(?![族名])|先生|女士|小姐|教授")
_KANA = re.compile("[\u30a1-\u30fa\u30fc]")
_HANGUL = re.compile("[\uac00-\ud7af]")
_STREET = re.compile(r"^(?:市|省)?[東西南北中东]?(?:路|街(?![頭头])|大道|大街|一路|二路|三路)")
_CYRILLIC_ENDING = re.compile("[аяоеийьыуюіієїємх]{0,3}$")


def find_mentions(text: Text, places: Places, fields: dict[int, float]) -> tuple[list[Group], list[Mention]]:
    """The groups of places in `text`, in order, and its hints: words that indicate a country without naming it.

    The keys of `fields` are the numbers of the parts that are fields for places.
    """
    return _Scanner(text, places, fields).scan()


class _Scanner:
    def __init__(self, text: Text, places: Places, fields: dict[int, float]) -> None:
        self.whole = text.whole
        self.folded = text.folded
        self.places = places
        self.words = " " + spaced(text.folded) + " "  # an index is one more than that in `whole`
        self.groups = Groups(text, places, fields)
        self.hints: list[Mention] = []
        self.is_bare_text = len(text.parts) == 1 and not text.parts[0].path

    def scan(self) -> tuple[list[Group], list[Mention]]:
        words, ascii_only = self.words, self.words.isascii()
        groups = self.groups.groups
        for name, start, end in self.matches():
            if words[start] == " ":
                # A name of letters, after a space. Most such matches are the beginning of a longer word.
                if words[end] != " " and (
                    (ascii_only and words[end - 1] != "$") or not self.is_whole(name, start, end - 1)
                ):
                    continue
                self.take(name, start, end - 1)
            elif self.is_whole(name, start - 1, end - 1):
                self.take(name, start - 1, end - 1)
            if len(groups) + len(self.hints) > _MAX_MENTIONS:
                break
        return groups, self.hints

    def matches(self) -> list[tuple[int, int, int]]:
        """(number of the name, start, end) of each match in `words`."""
        matches = self.places.automaton.find_matches_as_indexes(self.words)
        if not self.words.isascii() and _LETTER_BESIDE.search(self.words):
            # Latin letters follow Chinese ones without a space: search again without the Chinese ones.
            again = self.places.automaton.find_matches_as_indexes(_NO_SPACES.sub(" ", self.words))
            taken = {start for _, start, _ in matches}
            more = [each for each in again if each[1] not in taken and self.words[each[1]] != " "]
            matches = sorted([*matches, *more], key=lambda each: each[1])
        return matches

    def take(self, name: int, start: int, end: int) -> None:
        """Take the match from `start` to `end` of `whole`."""
        meaning = self.places.meaning(name)
        kind = meaning.kind
        if kind == BLOCK:
            return
        if kind == CUE:
            self.groups.cue = (end, self.places.cues[meaning.senses[0].number])
            return
        if kind == SUFFIX:
            self.groups.add_suffix(start, self.places.cues[meaning.senses[0].number])
            return
        groups = self.groups.groups
        if groups and start < groups[-1].end:  # the letters of a state, which the group has read
            return
        if meaning.flags & UPPER and not self.whole[start:end].isupper():
            return
        if meaning.only_hints:
            self.hints.append(Mention(start, end, meaning.senses, meaning.flags, 1.0, True))
            return
        if meaning.flags & STEM:
            while self.whole[end : end + 1].isalpha():
                end += 1
        beside = self.whole[end : end + 1] in _IN_ADDRESSES or (start and self.whole[start - 1] in _IN_ADDRESSES)
        if beside and self.is_in_address(start, end):
            return
        capital = not self.groups.cased or not self.whole[start].islower()
        mention = Mention(start, end, meaning.senses, meaning.flags, meaning.weight, capital)
        mention.weight = self.weight(mention)
        # A word at the start of a sentence may be a village too: before a comma, its state or country may follow.
        if mention.weight >= _MIN_WEIGHT or (mention.weight > 0 and self.whole[end : end + 1] == ","):
            self.groups.add(mention)

    def is_in_address(self, start: int, end: int) -> bool:
        """Whether the match is part of a web or mail address, whose words mean little."""
        whole = self.whole
        if start > 1 and whole[start - 1] in "@._" and not whole[start - 2].isspace():
            return True
        return end + 1 < len(whole) and whole[end] in "@._" and whole[end + 1].islower()

    def is_whole(self, name: int, start: int, end: int) -> bool:
        """Whether the match is a whole name, not a part of a longer word."""
        words = self.words
        first, last, after = words[start + 1], words[end], words[end + 1 : end + 2]
        if first >= "\u0e00":  # a script without spaces: a syllable may belong to a longer word
            if _KANA.match(first) and _KANA.match(words[start]):
                return False
            if _KANA.match(last) and after and _KANA.match(after):
                return False
            if _HANGUL.match(first):
                return not _HANGUL.match(words[start])
            return _STREET.match(words[end + 1 : end + 6]) is None or not _NO_SPACES.match(first)
        if not after or not is_spaced_letter(last) or not is_spaced_letter(after):
            return True
        if self.places.flags[name] & STEM:
            ending = end + 1
            while ending - end < 5 and words[ending : ending + 1].isalpha():
                ending += 1
            return ending - end < 5 and _CYRILLIC_ENDING.match(words[end + 1 : ending]) is not None
        return False

    def weight(self, mention: Mention) -> float:
        senses, flags, weight = mention.senses, mention.flags, mention.weight
        if self.groups.in_field(mention.start):
            return max(weight, 0.5)
        if self.is_bare_text and mention.start <= 1 and mention.end == len(self.whole):
            return max(weight, 0.5) if mention.capital or not flags & COMMON else 0.0
        common = flags & COMMON
        if self.whole[mention.start] >= "\u2e80":
            if _FORM_OF_ADDRESS.match(self.whole, mention.end):
                return weight * 0.05  # 河内さん is a person, not Hanoi
            return weight * 0.05 if common and senses[0].kind == CITY else weight
        is_country = senses[0].kind in (COUNTRY, DEMONYM, HINT)
        if not mention.capital:
            if common:
                return 0.0
            if not is_country:
                large = senses[0].people >= 300_000 and mention.end - mention.start > 4
                weight = weight * 0.4 if large else 0.0
            return weight * 0.75
        if self.whole[mention.start] >= "\u0590":
            return weight
        if not self.groups.cased and common:
            return weight * 0.1
        if common:
            begins = self.begins_sentence(mention.start)
            if is_country:
                # "Polish your shoes"
                weight *= 1.0 if not begins else 0.4 if senses[0].kind == DEMONYM else 0.6
            else:
                weight *= 0.1 if begins else 0.7 if senses[0].people >= 500_000 or senses[0].kind == REGION else 0.3
        return weight * self.person_factor(mention)

    def person_factor(self, mention: Mention) -> float:
        """Less than one for what is probably a person's name."""
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
            if after[:1] == " " and after[1:2].isupper() and not POSTAL_CODE.match(self.whole, mention.end):
                return 0.35
        return 1.0

    def begins_sentence(self, start: int) -> bool:
        before = self.whole[max(0, start - 3) : start].rstrip(" ")
        return not before or before[-1] in ".!?\n:;•\"“'"
