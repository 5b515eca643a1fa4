"""Test documents, made from a seed: the same seed makes the same bytes, on any machine and at any time.

Each is a JSON object with `id`, `timestamp`, `content` and `metadata`. The sentences are in `sample_texts.toml`.
"""

import functools
import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import msgspec

MAX_BYTES = 2500
_BASE = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)  # the first document's `timestamp`
_SLOT = re.compile(r"\{(?:(\d+)-(\d+)|(\w+))\}")
# Values of `metadata.priority` and their weights. None: the document has none.
_PRIORITIES = {"high": 14, "urgent": 8, "medium": 24, "normal": 10, "low": 14, "test": 8, None: 22}
_MODELS = ("hosted-large", "hosted-small", "local-8b", "local-70b")
_MIN_CONTENT = 220  # bytes
_MAX_CONTENT = 1900
_URGENT_SHARE = 0.08
_UNHURRIED_SHARE = 0.06

Language = Literal["en", "zh"]


class Topic(msgspec.Struct, frozen=True):
    """A kind of document. `name` is a part of its file name, `source` its `metadata.source`."""

    name: str
    source: str
    sentences: list[str]


class Texts(msgspec.Struct, frozen=True):
    """What documents of one language are made of: see `sample_texts.toml`."""

    urgent: list[str]
    unhurried: list[str]
    words: dict[str, list[str]]
    topics: list[Topic]


class Sample(NamedTuple):
    """A file to drop. `is_broken`: it is not one valid JSON text in UTF-8. `is_rejected`: nor can it be repaired."""

    name: str
    raw: bytes
    is_broken: bool
    is_rejected: bool


@functools.cache
def texts() -> dict[Language, Texts]:
    """The texts of both languages."""
    raw = files(__package__).joinpath("sample_texts.toml").read_bytes()
    return msgspec.toml.decode(raw, type=dict[Language, Texts])


def documents(count: int, seed: int, broken: float = 0.0) -> Iterator[Sample]:
    """`count` files. The share `broken` (0 to 1) of them is spoilt, each in one of the ways of `SPOILERS`."""
    spoilt = set(_chance(f"{seed}/broken").sample(range(count), round(count * broken)))
    spoilers = list(SPOILERS)
    for index in range(count):
        chance = _chance(f"{seed}/{index}")  # its own generator: a document does not depend on `count`
        language: Language = "zh" if chance.random() < 0.4 else "en"
        topic = chance.choice(texts()[language].topics)
        identity = f"s{seed}-{index + 1:06d}"
        name = f"{identity}-{topic.name}.json"
        document = _document(identity, language, topic, index, chance)
        if index in spoilt:
            way = chance.choice(spoilers)
            yield Sample(name, SPOILERS[way](document, chance), is_broken=True, is_rejected=way not in REPAIRABLE)
        else:
            yield Sample(name, _encode(document, chance), is_broken=False, is_rejected=False)


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
    """Sentences of the topic, in paragraphs."""
    wanted = chance.randint(_MIN_CONTENT, _MAX_CONTENT)
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
    """`template` with its slots filled. No word is used twice."""
    words = texts()[language].words
    used: set[str] = set()

    def fill(slot: re.Match[str]) -> str:
        if not slot[3]:
            return str(chance.randint(int(slot[1]), int(slot[2])))
        word = chance.choice([word for word in words[slot[3]] if word not in used])
        used.add(word)
        return word

    sentence = _SLOT.sub(fill, template)
    return sentence[0].upper() + sentence[1:]


def _with_keyword(sentences: list[str], language: Language, chance: random.Random) -> list[str]:
    """Sometimes adds a sentence with a keyword of the default priority rules."""
    roll = chance.random()
    if roll < _URGENT_SHARE:
        sentences.insert(chance.randint(0, len(sentences)), chance.choice(texts()[language].urgent))
    elif roll < _URGENT_SHARE + _UNHURRIED_SHARE:
        sentences.append(chance.choice(texts()[language].unhurried))
    return sentences


def _paragraphs(sentences: list[str], language: Language, chance: random.Random) -> str:
    glue = " " if language == "en" else ""
    paragraphs: list[str] = []
    while sentences:
        length = chance.randint(2, 5)
        paragraphs.append(glue.join(sentences[:length]))
        sentences = sentences[length:]
    return "\n\n".join(paragraphs)


def _encode(document: dict[str, Any], chance: random.Random) -> bytes:
    """As JSON text in one of the usual styles: escaped, indented or compact."""
    style = chance.random()
    if style < 0.1:
        raw = json.dumps(document).encode()  # non-ASCII characters escaped
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
    topic = chance.choice(texts()["en"].topics)
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
REPAIRABLE = frozenset({"trailing comma", "single quotes", "prose around it", "Latin-1"})  # by intake
