"""Removes the reasoning block of a model and the marks of its chat template: neither is part of the answer."""

import re

from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.rejection import invalid_json

_TAG = r"think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis|seed:think"
_OPENING = re.compile(rf"\s*(?:<\s*(?:{_TAG})\s*>|◁think▷)", re.IGNORECASE)
_CLOSING = re.compile(rf"</\s*(?:{_TAG})\s*>|◁/think▷", re.IGNORECASE)
_HARMONY = re.compile(r"<\|channel\|>final(?:<\|constrain\|>\w*)?<\|message\|>")  # gpt-oss' "harmony" format
_MARK = re.compile(
    r"\[/?(?:ANSWER|JSON|OUTPUT|RESULT|RESPONSE|FINAL|DATA|START|END)\]"
    r"|<!\[CDATA\[|\]\]>|\x1b\[[0-9;]*m|data: \[DONE\]|data:(?= [\[{])"
    r"|\[/?TOOL_CALLS\]|\[/?INST\]|\[/?OUT\]|<\|[a-z0-9_]{1,40}\|>|</?s>|<｜[^｜]{1,40}｜>|<(?:start|end)_of_turn>(?:model)?"
)
_BRACKET = re.compile(r"[\[{]")


def without_reasoning(draft: Draft) -> Draft:
    """The answer after the reasoning block. Raises `IntakeRejection` when there is none."""
    finals = list(_HARMONY.finditer(draft.text))
    if finals:
        draft = draft.part(finals[-1].end(), len(draft.text), "thoughts")
    closings = list(_CLOSING.finditer(draft.text))
    if _OPENING.match(draft.text) and not closings:
        raise invalid_json("The model's reasoning block does not end, so there is no answer.", cut=True)
    # Some templates put the opening tag into the prompt: then the answer has only the closing tag.
    if closings and not _is_in_string(draft.text, closings[-1].start()):
        draft = draft.part(closings[-1].end(), len(draft.text), "thoughts").trimmed()
        if not draft.text:
            raise invalid_json("No answer follows the model's reasoning block.", cut=True)
    return _without_marks(draft)


def _is_in_string(text: str, place: int) -> bool:
    """Whether `place` is inside a string of a document that began earlier, judged by the quotes on its line."""
    if _OPENING.match(text):
        return False
    first = _BRACKET.search(text, 0, place)
    if first is None or not text[first.end() :].lstrip().startswith('"'):
        return False
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return line.count('"') % 2 == 1


def _without_marks(draft: Draft) -> Draft:
    text = draft.text
    marks = list(_MARK.finditer(text))
    start, end = 0, len(text)
    for mark in marks:
        if text[start : mark.start()].strip():
            break
        start = mark.end()
    for mark in reversed(marks):
        if mark.start() < start or text[mark.end() : end].strip():
            break
        end = mark.start()
    return draft if (start, end) == (0, len(text)) else draft.part(start, end, "template_marks").trimmed()
