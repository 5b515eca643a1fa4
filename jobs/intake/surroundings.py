"""Judges the text around a JSON value: prose for the reader, or a larger text of which the value is only a part."""

import re

from llm_scheduler.jobs.intake.strict import is_json

# `{name}`: a placeholder in a sentence. Not `{}`, and nothing with a quote or a colon in it.
PLACEHOLDER = re.compile(r"\{[A-Za-z_][\w .-]{0,40}\}")
_BRACKET = re.compile(r"[\[\]{}]")
# Brackets that belong to prose: links, citations, quoted empty brackets, and a word in brackets.
IN_PROSE = re.compile(
    r"!?\[[^\[\]{}\n\"']{1,80}\]\(\S{1,500}?\)"
    r"|\[\^?\d{1,3}\](?!\s*[\]}])|`\[\]`|`\{\}`|\(\[\]\)|\[[A-Za-z][\w -]{0,30}\]"
)
# Members of an object around the value.
_MEMBER = re.compile(r"(?:^|\n|[,{}\]])\s*,?\s*[\"'“][^\"'”\n]{1,80}[\"'”]\s*[:：]")
# Prose about a document that does not exist.
_HYPOTHETICAL = re.compile(
    r"would look like|will look like"
    r"|could look like|might look like|format (?:is|would be|should be)|\bif I could\b|for example"
    r"|please (?:provide|send|share|paste|upload)|(?:can(?:no|')t|could ?n[o']t|unable to)"
    r" (?:produce|provide|generate|extract|create)"
    r"|Traceback \(most|^\w*(?:Error|Exception)\b.*:|\binvalid JSON\b|\bnever write\b|^(?:bad|wrong)\b",
    re.IGNORECASE | re.MULTILINE,
)

_MODIFIERS = r"(?:export |public |private |protected |static |async |abstract |default )*"
# Lines of programs, queries, shells and markup.
_SOURCE = tuple(
    re.compile(pattern)
    for pattern in (
        r"[^\s;]*[=(){}<>.][^;]*;$|\S+;$",  # a statement
        r"[\w.$]+(?:\s*:\s*[\w.\[\], |]+)?\s*(?:=|:=|\+=|<-)\s*[^=\s].*$",  # an assignment
        r"(?:await |return |yield |new )?[\w.$]+\(.*\)[;:]?$",  # a call
        r"[\w.$]+\([^)]*$",  # the beginning of a call
        _MODIFIERS + r"(?:def|class|function|fn|func|interface|struct|enum|impl|namespace|trait)\s+\w+\s*[(:{<=]?.*$",
        r"(?:import\s+[\w.{*\"']+|from\s+[\w.]+\s+import\b|package\s+[\w.]+$|using\s+[\w.]+$|require\b.*['\"(]).*$",
        r"(?:if|for|while|elif|else if|switch|catch|except|with)\b.*[()=<>].*[:{)]?$",
        r"(?:else|try|finally|fi|esac)\s*[:{]?$",
        r"(?:return|yield|raise|throw)\b(?:\s+[\w.\"'+*-]+){0,1}$",
        r"(?:const|let|var|val|mut|int|float|double|char|bool|string|auto|final)\s+[\w<>$]+.*[=;({].*$",
        r"(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|DROP|ALTER|FROM|WHERE|GROUP BY|ORDER BY|VALUES)\b.*$",
        r"\$?\s*(?:curl|wget|pip|npm|npx|yarn|docker|kubectl|git|sudo|mkdir|bash|sh|python3?|node)\s+[\w./'\"-]+.*$",
        r"<(?:!DOCTYPE|html|head|body|script|style|div|span|table|ul|ol|svg|\?php|\?xml)\b.*$",
        r"(?://|/\*|\*/|#include|#define|#!|--\s).*$",
        r"@\w+(?:\(.*\))?$",
        r"print\b.*$",
        r"\}?\s*(?:\)|=>)\s*.*$",
        r".*=>\s*$",
    )
)
_SENTENCE = re.compile(r"\b[^\W\d_]{2,}(?:[,'’-]?\s+[^\W\d_]+){3,}[^=;{}]*[.!?:。！？：]?$")
_LEAD = re.compile(r"(?!(?:class|def|if|for|while|with|elif|except|case)\b)\w+(?: [\w()-]+)+:")
_YAML_KEY = re.compile(r"^[ \t]*(?:-[ \t]+)?[\w-]+:(?:[ \t]|$)", re.MULTILINE)
_YAML_LEAD = re.compile(r"(?:^|\n)[ \t]*(?:-[ \t]+)?[\w-]+:[ \t]*\Z")
_TABLE = re.compile(r"^[ \t]*\|.*\|", re.MULTILINE)
_MAX_PROSE = 20_000  # characters that are examined on each side of the value


def has_brackets(text: str) -> bool:
    """Whether `text` has brackets other than those of placeholders and of prose."""
    return _BRACKET.search(IN_PROSE.sub(" ", PLACEHOLDER.sub(" ", text))) is not None


def is_prose(before: str, after: str) -> bool:
    """Whether the text before and after a value only explains it, and is not part of a program, table or document."""
    before, after = before[-_MAX_PROSE:], after[:_MAX_PROSE]
    if any(has_brackets(text) or is_source(text) or _TABLE.search(text) for text in (before, after)):
        return False
    if any(_MEMBER.search(text) or _HYPOTHETICAL.search(text) for text in (before, after)):
        return False
    # A scalar beside the value is a second value, and it would be unclear which is meant.
    return not (_is_yaml(before, after) or is_json(before.strip()) or is_json(after.strip()))


def is_source(text: str) -> bool:
    """Whether `text` has a line of a program, a query, a shell or markup."""
    return any(_is_source(line.strip()) for line in text.splitlines())


def _is_source(line: str) -> bool:
    if not line or len(line) > 2000 or _SENTENCE.fullmatch(line) or _LEAD.fullmatch(line):
        return False
    return any(pattern.match(line) for pattern in _SOURCE)


def _is_yaml(before: str, after: str) -> bool:
    """Whether the value belongs to one of several YAML keys: `tags: ["a"]` between `name: x` and `size: 3`."""
    keys = len(_YAML_KEY.findall(before)) + len(_YAML_KEY.findall(after.strip("\r\n ")))
    return keys > 1 and _YAML_LEAD.search(before) is not None
