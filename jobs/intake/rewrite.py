"""Rewrites whose result is certain, because a standard or the text itself defines it.

Each function takes a draft and returns it rewritten, or the same draft if there is nothing to rewrite. `by_grammar`
reads a text that follows another grammar: JSON5, or a Python literal.
"""

import ast
import io
import re
import tokenize
import warnings
from typing import Any

import pyjson5

from llm_scheduler.jobs.intake.brackets import STRINGS
from llm_scheduler.jobs.intake.draft import Draft, Edit

# A string that is a Windows path or a regular expression.
_PATH_OR_PATTERN = re.compile(r'^"(?:[A-Za-z]:\\|\\\\|\\[bdswBDSW^(\[])')
_CONTROL = re.compile(r"[\x00-\x1f]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\b": r"\b", "\f": r"\f"}
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PROPER = frozenset('"\\/bfnrt')
# LaTeX commands that begin like a JSON escape. In a string with other LaTeX they are not escapes.
_LATEX = re.compile(
    r"\\(?:b(?:ar|egin|eta|ig|igl|igr|inom|mod|oldsymbol|ot|ox|oxed|reve|ullet)|f(?:lat|orall|rac|rown|box)"
    r"|n(?:abla|atural|e|earrow|eg|eq|exists|i|ot|otin|u|leq|geq|mid|parallel|subseteq|ewline)"
    r"|r(?:angle|brace|brack|ceil|floor|ho|ight|ightarrow|oot|m)|t(?:an|anh|au|ext|extbf|extit|extrm|heta|ilde|imes|o|op"
    r"|riangle|frac|herefore)|u(?:nderline|nderbrace|p|parrow|psilon))(?![A-Za-z])"
)


def controls(draft: Draft) -> Draft:
    """Control characters in strings, such as line ends and tabs, become escapes (RFC 8259 section 7)."""
    edits = [
        Edit(at, at + 1, _SHORT.get(char, f"\\u{ord(char):04x}"), "control_character")
        for string in STRINGS.finditer(draft.text)
        for found in _CONTROL.finditer(string[0])
        for at, char in [(string.start() + found.start(), found[0])]
        if not _is_escaped(draft.text, at)
    ]
    return draft.edited(edits, "amend")


def _is_escaped(text: str, at: int) -> bool:
    """Whether an odd number of backslashes comes before `at`. To escape that character again would undo the last."""
    first = at
    while first > 0 and text[first - 1] == "\\":
        first -= 1
    return (at - first) % 2 == 1


def escapes(draft: Draft) -> Draft:
    r"""Backslashes that begin no JSON escape: before `'` or a line end they are removed, elsewhere doubled."""
    edits: list[Edit] = []
    for string in STRINGS.finditer(draft.text):
        wrong = [found for found in _ESCAPE.finditer(string[0]) if not _is_proper(found[0])]
        if not wrong:
            continue
        path = _PATH_OR_PATTERN.search(string[0]) is not None
        latex = any(found[0][1:].isalpha() or found[0][1:] in "()[]{}|,;!" for found in wrong)
        for found in _ESCAPE.finditer(string[0]):
            at = string.start() + found.start()
            char = found[0][1]
            if not _is_proper(found[0]) and char in "'\n":  # an escaped quote, or a continued line, as in Python
                edits.append(Edit(at, at + 2, char.strip("\n"), "needless_escape"))
                continue
            in_latex = latex and (char in "bf" or _LATEX.match(string[0], found.start()))
            if not _is_proper(found[0]) or in_latex or (path and char in "bfnrt"):
                edits.append(Edit(at, at + 1, "\\\\", "lone_backslash"))
    return draft.edited(edits, "amend")


def _is_proper(escape: str) -> bool:
    """Whether JSON has this escape."""
    return escape[1] in _PROPER or (escape[1] == "u" and len(escape) == 6)


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


def punctuation(draft: Draft) -> Draft:
    """Typographic quotes and full-width signs become those of JSON, except inside strings."""
    text = draft.text
    if not _OTHER.search(text):
        return draft
    edits: list[Edit] = []
    place = 0
    while place < len(text):
        char = text[place]
        if char == '"':
            string = STRINGS.match(text, place)
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
    """Whether the full-width sign at `place` is in a position where JSON has a sign."""
    return bool(_BEFORE_SIGN.search(text[max(0, place - 40) : place]) and _AFTER_SIGN.match(text, place + 1))


def _quoted_end(text: str, start: int, closers: str) -> int | None:
    """The place of the quote that ends the string at `start`: a structural sign follows it."""
    for place in range(start + 1, len(text)):
        if text[place] in closers and _STRUCTURAL_AHEAD.match(text, place + 1):
            return place
    return None


def by_grammar(text: str) -> tuple[str, Any] | None:
    """(code, value) of a text that is JSON5 (https://spec.json5.org) or a Python literal; None for any other text."""
    try:
        if not _DROPPED.search(text):
            return "json5", pyjson5.decode(text, maxdepth=-1)
    except (pyjson5.Json5Exception, ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of invalid escapes
            value = _literal(ast.parse(text.strip(), mode="eval").body)
        return None if _has_adjacent_strings(text.strip()) else ("python_literal", value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# A backslash that JSON5 would silently drop (https://spec.json5.org/#escapes), and Python would keep.
_DROPPED = re.compile(r"\\(?![\"'\\/bfnrtv0ux\n\r])")


def _has_adjacent_strings(text: str) -> bool:
    """Whether two strings are adjacent. Python joins them, but a comma may be missing."""
    before = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING == before:
            return True
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type
    return False


def _literal(node: ast.expr) -> Any:
    """The value of a literal that JSON can hold. Raises ValueError for sets, calls, other keys than strings..."""
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if number is not True:
            return -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_literal(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(value) for key, value in zip(keys, values, strict=True)}
        case _:
            raise ValueError("not a literal that JSON can hold")


def _key(node: ast.expr | None) -> str:
    match node:
        case ast.Constant(value=str() as key):
            return key
        case ast.Constant(value=int() as key) if not isinstance(key, bool):
            return str(key)  # as json.dumps writes it
        case _:
            raise ValueError("a key that is not a string")
