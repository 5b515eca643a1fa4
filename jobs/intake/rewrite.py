"""Slips whose cure is in a standard, or in the slip itself: no guess is made here.

Each function takes a text that is not strict and returns it amended, the same one where there was nothing to amend.
`by_grammar` reads what is not JSON but wholly something else with a specification.
"""

import ast
import io
import re
import tokenize
import warnings
from typing import Any

import pyjson5

from llm_scheduler.jobs.intake.draft import Draft, Edit

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # closed or not, so that no text is looked at twice
# A string that is a path of Windows or a regular expression throughout.
_PATH_OR_PATTERN = re.compile(r'^"(?:[A-Za-z]:\\|\\\\|\\[bdswBDSW^(\[])')
_CONTROL = re.compile(r"[\x00-\x1f]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\b": r"\b", "\f": r"\f"}
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PROPER = frozenset('"\\/bfnrt')
# Commands of LaTeX that begin like an escape of JSON. Where a text has other LaTeX in it, they are no escapes.
_LATEX = re.compile(
    r"\\(?:b(?:ar|egin|eta|ig|igl|igr|inom|mod|oldsymbol|ot|ox|oxed|reve|ullet)|f(?:lat|orall|rac|rown|box)"
    r"|n(?:abla|atural|e|earrow|eg|eq|exists|i|ot|otin|u|leq|geq|mid|parallel|subseteq|ewline)"
    r"|r(?:angle|brace|brack|ceil|floor|ho|ight|ightarrow|oot|m)|t(?:an|anh|au|ext|extbf|extit|extrm|heta|ilde|imes|o|op"
    r"|riangle|frac|herefore)|u(?:nderline|nderbrace|p|parrow|psilon))(?![A-Za-z])"
)


def controls(draft: Draft) -> Draft:
    """Line ends and tabs inside strings, as the escapes that JSON has for them (RFC 8259 section 7)."""
    edits = [
        Edit(at, at + 1, _SHORT.get(char, f"\\u{ord(char):04x}"), "control_character")
        for string in _STRING.finditer(draft.text)
        for found in _CONTROL.finditer(string[0])
        for at, char in [(string.start() + found.start(), found[0])]
        if not _is_escaped(draft.text, at)
    ]
    return draft.edited(edits, "amend")


def _is_escaped(text: str, at: int) -> bool:
    """Whether a lone backslash stands before `at`: to escape what follows as well would undo the backslash."""
    first = at
    while first > 0 and text[first - 1] == "\\":
        first -= 1
    return (at - first) % 2 == 1


def escapes(draft: Draft) -> Draft:
    r"""Backslashes that begin no escape of JSON: before a single quote none is needed, any other is itself one."""
    edits: list[Edit] = []
    for string in _STRING.finditer(draft.text):
        wrong = [found for found in _ESCAPE.finditer(string[0]) if not _is_proper(found[0])]
        if not wrong:
            continue
        path = _PATH_OR_PATTERN.search(string[0]) is not None
        latex = any(found[0][1:].isalpha() or found[0][1:] in "()[]{}|,;!" for found in wrong)
        for found in _ESCAPE.finditer(string[0]):
            at = string.start() + found.start()
            if not _is_proper(found[0]):
                if found[0][1] in "'\n":  # a quote escaped as in Python; a line that goes on in the next
                    edits.append(Edit(at, at + 2, found[0][1].strip("\n"), "needless_escape"))
                else:
                    edits.append(Edit(at, at + 1, "\\\\", "lone_backslash"))
            elif (latex and (_LATEX.match(string[0], found.start()) or found[0][1] in "bf")) or (
                path and found[0][1] in "bfnrt"
            ):
                edits.append(Edit(at, at + 1, "\\\\", "lone_backslash"))
    return draft.edited(edits, "amend")


def _is_proper(escape: str) -> bool:
    return escape[1] in _PROPER or (escape[1] == "u" and len(escape) == 6)


# Quotes and brackets of other scripts

_STRUCTURE = {"｛": "{", "｝": "}", "［": "[", "］": "]", "：": ":", "，": ",", "、": ",", "【": "[", "】": "]"}
_QUOTES = {
    "“": '”“"',
    "”": '”“"',
    "„": '“”"',
    "‟": '”"',
    "＂": "＂",
    "«": "»",
    "「": "」",
    "『": "』",
    "‘": "’‘'",
    "’": "’‘'",
}
_OTHER = re.compile("[" + "".join(_STRUCTURE) + "".join(_QUOTES) + "]")
_BEFORE_STRING = tuple("{[,:｛［，：")
_STRUCTURAL_AHEAD = re.compile(r"\s*(?:[,:}\]，：｝］、】]|\Z)")
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*+"|.', re.DOTALL)


def punctuation(draft: Draft) -> Draft:
    """Typographic quotes and full-width signs where JSON has its own. Inside a string nothing changes."""
    text = draft.text
    if not _OTHER.search(text):
        return draft
    edits: list[Edit] = []
    place = 0
    while place < len(text):
        char = text[place]
        if char == '"':
            string = _STRING.match(text, place)
            place = string.end() if string else len(text)
        elif char == "'" and text[:place].rstrip()[-1:] in _BEFORE_STRING:
            place = (_quoted_end(text, place, "'") or len(text)) + 1
        elif char in _QUOTES:
            end = _quoted_end(text, place, _QUOTES[char])
            if end is None:
                return draft
            edits.append(Edit(place, place + 1, '"', "quote"))
            edits += [
                Edit(place + 1 + found.start(), place + 1 + found.end(), r"\"", "inner_quote")
                for found in re.finditer(r'(?<!\\)"', text[place + 1 : end])
            ]
            edits.append(Edit(end, end + 1, '"', "quote"))
            place = end + 1
        else:
            if char in _STRUCTURE and _is_structural(text, place):
                edits.append(Edit(place, place + 1, _STRUCTURE[char], "full_width"))
            place += 1
    return draft.edited(edits, "amend")


_BEFORE_SIGN = re.compile(
    r"(?:[\"'”’」』＂\d\]}］｝\[{［｛,，:：]|true|false|null|None|True|False|[A-Za-z_])\s*\Z|\A\s*\Z"
)
_AFTER_SIGN = re.compile(r"\s*(?:[\"'“‘「『＂\d\[{［｛\]}］｝,，:：-]|true|false|null|None|True|False|[A-Za-z_]|\Z)")


def _is_structural(text: str, place: int) -> bool:
    """Whether a full-width sign stands where JSON has one of its own."""
    return bool(_BEFORE_SIGN.search(text[max(0, place - 40) : place]) and _AFTER_SIGN.match(text, place + 1))


def _quoted_end(text: str, start: int, closers: str) -> int | None:
    for place in range(start + 1, len(text)):
        if text[place] in closers and _STRUCTURAL_AHEAD.match(text, place + 1):
            return place
    return None


# Other grammars


def by_grammar(text: str) -> tuple[str, Any] | None:
    """(code, value) of a text that is JSON5 (https://spec.json5.org) or a literal of Python's; None for any other."""
    try:
        if not _DROPPED.search(text):
            return "json5", pyjson5.decode(text, maxdepth=-1)
    except (pyjson5.Json5Exception, ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of escapes that it keeps as they are
            value = _plain(ast.parse(text.strip(), mode="eval").body)
        return None if _has_neighbours(text.strip()) else ("python_literal", value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# A backslash that JSON5 would drop without a word (https://spec.json5.org/#escapes), and Python would keep.
_DROPPED = re.compile(r"\\(?![\"'\\/bfnrtv0ux\n\r])")


def _has_neighbours(text: str) -> bool:
    """Whether two strings stand side by side: Python makes one of them, who forgot a comma meant two."""
    before = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING == before:
            return True
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type
    return False


def _plain(node: ast.expr) -> Any:
    """The value of a literal that JSON can hold. Raises ValueError for a set, a call, a key that is no string..."""
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if number is not True:
            return -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_plain(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _plain(value) for key, value in zip(keys, values, strict=True)}
        case _:
            raise ValueError("no literal that JSON can hold")


def _key(node: ast.expr | None) -> str:
    match node:
        case ast.Constant(value=str() as key):
            return key
        case ast.Constant(value=int() as key) if not isinstance(key, bool):
            return str(key)  # as json.dumps writes it
        case _:
            raise ValueError("a key that is no string")
