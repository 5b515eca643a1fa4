"""Batch lines of providers: lines of a batch result, in which the answer of the model is a string.

OpenAI: https://platform.openai.com/docs/guides/batch, lines of `/v1/chat/completions` and of `/v1/responses`.
Anthropic: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing.
"""

from dataclasses import dataclass
from typing import Any

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake.rejection import IntakeRejection
from llm_scheduler.jobs.intake.strict import document_of
from llm_scheduler.jobs.receipt import Envelope

# Reasons for the end of an answer at the token limit. A tuple, not a set: the value compared may be unhashable.
_CUT_REASONS = ("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded")


@dataclass(frozen=True)
class EnvelopeAnswers:
    """The texts in an envelope, joined. `cut`: the model reached its token limit."""

    envelope: Envelope
    text: str
    cut: bool


def is_envelope(value: Any) -> bool:
    """Whether a parsed document is a batch line."""
    if not isinstance(value, dict) or "custom_id" not in value:
        return False
    response, result = value.get("response"), _object(value.get("result"))
    openai = isinstance(response, dict) and ("body" in response or "status_code" in response)
    failed = "response" in value and response is None and isinstance(value.get("error"), dict)
    succeeded = result.get("type") == "succeeded" and isinstance(result.get("message"), dict)
    return openai or failed or succeeded or result.get("type") in ("errored", "canceled", "expired")


def answers_in(line: dict[str, Any]) -> EnvelopeAnswers:
    """The answers in a line for which `is_envelope` holds. Raises `IntakeRejection` (no_answer) if there is none."""
    custom_id = _string(line.get("custom_id"))
    if isinstance(line.get("result"), dict):
        return _anthropic(custom_id, line["result"])
    if line.get("error"):
        raise _no_answer(line["error"])
    response = line["response"]
    body = response.get("body")
    status = response.get("status_code", 200)
    if not isinstance(body, dict) or body.get("error") or (isinstance(status, int) and status >= 400):
        raise _no_answer(_object(body).get("error") or f"status {status}")
    if isinstance(body.get("output"), list):
        return _responses(custom_id, body)
    return _chat(custom_id, body)


def _chat(custom_id: str, body: dict[str, Any]) -> EnvelopeAnswers:
    texts: list[str] = []
    cut = False
    refusal: Any = None
    for choice in _objects(body.get("choices")):
        message = _object(choice.get("message"))
        content = message.get("content")
        if isinstance(content, list):  # some compatible servers send the content in parts
            content = "".join(_string(part.get("text")) for part in _objects(content))
        if isinstance(choice.get("text"), str):  # /v1/completions
            content = choice["text"]
        calls = [_object(call.get("function")).get("arguments") for call in _objects(message.get("tool_calls"))]
        content = _string(content)
        found = [content] if content.strip() else [call for call in calls if isinstance(call, str)]
        texts += found
        cut = cut or (bool(found) and choice.get("finish_reason") in _CUT_REASONS)
        refusal = refusal or message.get("refusal")
        if choice.get("finish_reason") == "content_filter":
            refusal = refusal or "content_filter"
    return _answers(Envelope("openai.chat", custom_id, _string(body.get("model"))), texts, cut, refusal)


def _responses(custom_id: str, body: dict[str, Any]) -> EnvelopeAnswers:
    texts: list[str] = []
    refusal: Any = None
    for output in _objects(body["output"]):
        if output.get("type") == "function_call" and isinstance(output.get("arguments"), str):
            texts.append(output["arguments"])
        for part in _objects(output.get("content")) if output.get("type") == "message" else ():
            if part.get("type") == "refusal":
                refusal = refusal or part.get("refusal")
            elif isinstance(part.get("text"), str):
                texts.append(part["text"])
    reason = _object(body.get("incomplete_details")).get("reason")
    cut = reason in _CUT_REASONS or (body.get("status") == "incomplete" and reason is None)
    if body.get("status") in ("failed", "cancelled"):
        refusal = refusal or body.get("error") or body["status"]
    if reason == "content_filter":
        refusal = refusal or reason
    return _answers(Envelope("openai.responses", custom_id, _string(body.get("model"))), texts, cut, refusal)


def _anthropic(custom_id: str, result: dict[str, Any]) -> EnvelopeAnswers:
    message = result.get("message")
    if result.get("type") != "succeeded" or not isinstance(message, dict):
        raise _no_answer(result.get("error") or result.get("type"))
    texts = [_string(part.get("text")) for part in _objects(message.get("content")) if part.get("type") == "text"]
    stop = message.get("stop_reason")
    envelope = Envelope("anthropic", custom_id, _string(message.get("model")))
    return _answers(envelope, texts, stop in _CUT_REASONS, "refusal" if stop == "refusal" else None)


def _answers(envelope: Envelope, texts: list[str], cut: bool, refusal: Any) -> EnvelopeAnswers:
    texts = [text for text in texts if text.strip()]
    if refusal and not any("{" in text or "[" in text for text in texts):
        raise _no_answer(refusal)
    if not texts:
        raise _no_answer("no text")
    return EnvelopeAnswers(envelope, "".join(texts), cut)


def _no_answer(reason: Any) -> IntakeRejection:
    if isinstance(reason, dict):
        inner = _object(reason.get("error")) or reason
        values = (inner.get(key) for key in ("code", "type", "message"))
        reason = ": ".join(str(value) for value in values if isinstance(value, str | int)) or "an error"
    return IntakeRejection(Code.NO_ANSWER, f"The line of the batch holds no answer, but: {str(reason)[:300]}")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def single_answers(line: dict[str, Any]) -> list[dict[str, Any]]:
    """A line of several answers as lines of one answer each; `[line]` if it has one, or one in several parts.

    Each choice of a chat is an answer. Each text of a message is one if every text is JSON by itself.
    """
    result = _object(line.get("result"))
    message = result.get("message")
    if isinstance(message, dict):
        parts = _json_texts(_objects(message.get("content")))
        return [{**line, "result": {**result, "message": {**message, "content": [part]}}} for part in parts] or [line]
    response = _object(line.get("response"))
    body = _object(response.get("body"))
    choices = _objects(body.get("choices"))
    if len(choices) > 1:
        return [{**line, "response": {**response, "body": {**body, "choices": [each]}}} for each in choices]
    messages = [each for each in _objects(body.get("output")) if each.get("type") == "message"]
    parts = _json_texts([part for each in messages for part in _objects(each.get("content"))])
    return [
        {**line, "response": {**response, "body": {**body, "output": [{"type": "message", "content": [part]}]}}}
        for part in parts
    ] or [line]


def _json_texts(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts with a text, if there are several and each text is an object or an array; else none."""
    texts = [part for part in parts if _string(part.get("text")).strip()]
    several = len(texts) > 1 and all(document_of(part["text"]) is not None for part in texts)
    return texts if several else []
