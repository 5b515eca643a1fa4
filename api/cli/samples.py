"""Test documents in the guide's format, made from a seed: the same seed makes the same bytes, whenever and wherever.

Nothing here touches a file or a clock.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from llm_scheduler.api.cli.sample_texts import TOPICS, UNHURRIED, URGENT, WORDS, Language, Topic

MIN_BYTES = 300
MAX_BYTES = 2500
# Where the documents' own timestamps begin; a fixed moment, so that they too follow from the seed.
_BASE = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
_SLOT = re.compile(r"\{(?:(\d+)-(\d+)|(\w+))\}")
# The guide's three levels, the spellings that people use for them, and documents that say nothing: with their weights.
_PRIORITIES = {"high": 14, "urgent": 8, "medium": 24, "normal": 10, "low": 14, "test": 8, None: 22}
_MODELS = ("hosted-large", "hosted-small", "local-8b", "local-70b")
_MIN_CONTENT = 220
_URGENT_SHARE = 0.08
_UNHURRIED_SHARE = 0.06


class Specimen(NamedTuple):
    """A file to drop. `is_broken`: it is not one valid JSON text in UTF-8; `is_refused`: nor can it be repaired."""

    name: str
    raw: bytes
    is_broken: bool
    is_refused: bool


def documents(count: int, seed: int, broken: float = 0.0) -> Iterator[Specimen]:
    """`count` files, the share `broken` (0 to 1) of them spoilt, each in one of the ways of `SPOILERS`."""
    spoilt = set(_chance(f"{seed}/broken").sample(range(count), round(count * broken)))
    spoilers = list(SPOILERS)
    for index in range(count):
        # A generator of its own for each, so that a document does not depend on how many there are.
        chance = _chance(f"{seed}/{index}")
        language: Language = "zh" if chance.random() < 0.4 else "en"
        topic = chance.choice(TOPICS[language])
        name = f"s{seed}-{index + 1:06d}-{topic.name}.json"
        document = _document(f"s{seed}-{index + 1:06d}", language, topic, index, chance)
        if index in spoilt:
            way = chance.choice(spoilers)
            yield Specimen(name, SPOILERS[way](document, chance), is_broken=True, is_refused=way not in REPAIRABLE)
        else:
            yield Specimen(name, _written(document, chance), is_broken=False, is_refused=False)


def _chance(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - nothing here is a secret


def _document(identity: str, language: Language, topic: Topic, index: int, chance: random.Random) -> dict[str, Any]:
    metadata: dict[str, Any] = {"source": topic.source}
    priority = chance.choices(list(_PRIORITIES), list(_PRIORITIES.values()))[0]
    if priority is not None:
        metadata["priority"] = priority
    if chance.random() < 0.5:
        metadata["model"] = chance.choice(_MODELS)
    moment = _BASE + timedelta(seconds=index * 7 + chance.randrange(7), milliseconds=chance.randrange(1000))
    return {
        "id": identity,
        "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "content": _content(language, topic, chance),
        "metadata": metadata,
    }


def _content(language: Language, topic: Topic, chance: random.Random) -> str:
    """Sentences of the topic, in paragraphs, of 220 to 2000 bytes or so."""
    wanted = chance.randint(_MIN_CONTENT, 1900)
    sentences: list[str] = []
    size = 0
    while True:
        for template in chance.sample(topic.sentences, len(topic.sentences)):
            sentence = _sentence(template, language, chance)
            added = len(sentence.encode())
            if size + added > wanted and size >= _MIN_CONTENT:
                return _paragraphs(_with_keyword(sentences, language, chance), language, chance)
            sentences.append(sentence)
            size += added


def _sentence(template: str, language: Language, chance: random.Random) -> str:
    """`template` with its slots filled, no word used twice in it."""
    used: set[str] = set()

    def filling(slot: re.Match[str]) -> str:
        if not slot[3]:
            return str(chance.randint(int(slot[1]), int(slot[2])))
        word = chance.choice([word for word in WORDS[language][slot[3]] if word not in used])
        used.add(word)
        return word

    sentence = _SLOT.sub(filling, template)
    return sentence[0].upper() + sentence[1:]


def _with_keyword(sentences: list[str], language: Language, chance: random.Random) -> list[str]:
    """Now and then one more sentence, with a word that the priority rules look for."""
    roll = chance.random()
    if roll < _URGENT_SHARE:
        sentences.insert(chance.randint(0, len(sentences)), chance.choice(URGENT[language]))
    elif roll < _URGENT_SHARE + _UNHURRIED_SHARE:
        sentences.append(chance.choice(UNHURRIED[language]))
    return sentences


def _paragraphs(sentences: list[str], language: Language, chance: random.Random) -> str:
    glue = " " if language == "en" else ""
    paragraphs: list[str] = []
    rest = sentences
    while rest:
        length = chance.randint(2, 5)
        paragraphs.append(glue.join(rest[:length]))
        rest = rest[length:]
    return "\n\n".join(paragraphs)


def _written(document: dict[str, Any], chance: random.Random) -> bytes:
    """As JSON text, in one of the styles that models and programs write it in."""
    style = chance.random()
    if style < 0.1:
        raw = json.dumps(document).encode()  # every character beyond ASCII escaped
        if len(raw) <= MAX_BYTES:
            return raw
    if style < 0.5:
        return json.dumps(document, ensure_ascii=False, indent=2).encode() + b"\n"
    return json.dumps(document, ensure_ascii=False).encode()


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2)


def _truncated(document: dict[str, Any], chance: random.Random) -> bytes:
    text = _text(document)
    return text[: chance.randint(len(text) // 3, len(text) - 2)].encode()


def _trailing_comma(document: dict[str, Any], chance: random.Random) -> bytes:
    return (_text(document)[:-2] + ",\n}\n").encode()


def _single_quotes(document: dict[str, Any], chance: random.Random) -> bytes:
    return repr(document).encode()


def _prose_around(document: dict[str, Any], chance: random.Random) -> bytes:
    before, after = chance.choice(
        (
            ("Sure, here is the JSON you asked for:\n\n```json\n", "\n```\n\nLet me know if anything should change.\n"),
            ("以下是您要的 JSON：\n\n", "\n\n如需修改請告訴我。\n"),
            ("Answer: ", ""),
        )
    )
    return (before + _text(document) + after).encode()


def _not_a_number(document: dict[str, Any], chance: random.Random) -> bytes:
    return _text({**document, "score": chance.choice((float("nan"), float("inf")))}).encode()


def _empty(document: dict[str, Any], chance: random.Random) -> bytes:
    return chance.choice((b"", b"\n", b"  \r\n"))


def _latin_1(document: dict[str, Any], chance: random.Random) -> bytes:
    topic = chance.choice(TOPICS["en"])
    content = f"Café Zürich, señor Peña: {_content('en', topic, chance)}"
    return _text({**document, "content": content}).encode("latin-1", errors="replace")


SPOILERS: dict[str, Callable[[dict[str, Any], random.Random], bytes]] = {
    "truncated": _truncated,
    "trailing comma": _trailing_comma,
    "single quotes": _single_quotes,
    "prose around it": _prose_around,
    "NaN or Infinity": _not_a_number,
    "empty": _empty,
    "Latin-1": _latin_1,
}
# The ways from which intake finds back.
REPAIRABLE = frozenset({"trailing comma", "single quotes", "prose around it", "Latin-1"})
