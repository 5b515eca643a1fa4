"""Lines of batch results: the model's answer is a string inside them.

OpenAI: https://platform.openai.com/docs/guides/batch, lines of `/v1/chat/completions` and of `/v1/responses`.
Anthropic: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing.
"""

from dataclasses import dataclass
from typing import Any

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake.rejection import Refused
from llm_scheduler.jobs.intake.strict import value_of
from llm_scheduler.jobs.receipt import Envelope

# A tuple, not a set: what is looked for in it may be any JSON value.
_TOO_LONG = ("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded")


@dataclass(frozen=True)
class Answers:
    """The texts in an envelope, in order, and whether the model was stopped at its limit of tokens."""

    envelope: Envelope
    texts: tuple[str, ...]
    cut: bool


def is_envelope(value: Any) -> bool:
    """Whether a parsed document is the line of a batch."""
    if not isinstance(value, dict) or "custom_id" not in value:
        return False
    response, result = value.get("response"), value.get("result")
    openai = isinstance(response, dict) and ("body" in response or "status_code" in response)
    failed = "response" in value and response is None and isinstance(value.get("error"), dict)
    anthropic = isinstance(result, dict) and (
        (result.get("type") == "succeeded" and isinstance(result.get("message"), dict))
        or result.get("type") in ("errored", "canceled", "expired")
    )
    return openai or failed or anthropic


def opened(line: dict[str, Any]) -> Answers:
    """The answers in a line for which `is_envelope` holds. Raises `Refused` (no_answer) where there is none."""
    custom_id = line.get("custom_id")
    name = custom_id if isinstance(custom_id, str) else ""
    if isinstance(line.get("result"), dict):
        return _anthropic(name, line["result"])
    error = line.get("error")
    if error:
        raise _no_answer(error)
    response = line["response"]
    body = response.get("body")
    status = response.get("status_code", 200)
    if not isinstance(body, dict) or body.get("error") or (isinstance(status, int) and status >= 400):
        raise _no_answer(body.get("error") if isinstance(body, dict) and body.get("error") else f"status {status}")
    model = body.get("model") if isinstance(body.get("model"), str) else ""
    if isinstance(body.get("output"), list):
        return _responses(name, model or "", body)
    return _chat(name, model or "", body)


def _chat(custom_id: str, model: str, body: dict[str, Any]) -> Answers:
    texts: list[str] = []
    cut = False
    refusal: Any = None
    for choice in _objects(body.get("choices")):
        message = choice.get("message")
        message = message if isinstance(message, dict) else {}
        content = message.get("content")
        if isinstance(content, list):  # parts, as some servers of the same form send them
            content = "".join(part["text"] for part in _objects(content) if isinstance(part.get("text"), str))
        calls = [call.get("function") for call in _objects(message.get("tool_calls"))]
        arguments = [
            call["arguments"] for call in calls if isinstance(call, dict) and isinstance(call.get("arguments"), str)
        ]
        if isinstance(choice.get("text"), str):  # /v1/completions
            content = choice["text"]
        refusal = refusal or message.get("refusal")
        found = [content] if isinstance(content, str) and content.strip() else arguments
        texts += found
        cut = cut or (bool(found) and choice.get("finish_reason") in _TOO_LONG)
        if choice.get("finish_reason") == "content_filter":
            refusal = refusal or "content_filter"
    return _answers(Envelope("openai.chat", custom_id, model), texts, cut, refusal)


def _responses(custom_id: str, model: str, body: dict[str, Any]) -> Answers:
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
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    cut = reason in _TOO_LONG or (body.get("status") == "incomplete" and reason is None)
    if body.get("status") in ("failed", "cancelled"):
        refusal = refusal or body.get("error") or body["status"]
    if reason == "content_filter":
        refusal = refusal or reason
    return _answers(Envelope("openai.responses", custom_id, model), texts, cut, refusal)


def _anthropic(custom_id: str, result: dict[str, Any]) -> Answers:
    message = result.get("message")
    if result.get("type") != "succeeded" or not isinstance(message, dict):
        raise _no_answer(result.get("error") or result.get("type"))
    parts = (part for part in _objects(message.get("content")) if part.get("type") == "text")
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    stop = message.get("stop_reason")
    model = message.get("model")
    envelope = Envelope("anthropic", custom_id, model if isinstance(model, str) else "")
    return _answers(envelope, texts, stop in _TOO_LONG, "refusal" if stop == "refusal" else None)


def _answers(envelope: Envelope, texts: list[str], cut: bool, refusal: Any) -> Answers:
    texts = [text for text in texts if text.strip()]
    if refusal and not texts:
        raise _no_answer(refusal)
    if refusal and not any("{" in text or "[" in text for text in texts):
        raise _no_answer(refusal)
    if not texts:
        raise _no_answer("no text")
    return Answers(envelope, tuple(texts), cut)


def _no_answer(why: Any) -> Refused:
    if isinstance(why, dict):
        error = why.get("error")
        inner = error if isinstance(error, dict) else why
        said = (inner.get(key) for key in ("code", "type", "message"))
        why = ": ".join(str(each) for each in said if isinstance(each, str | int)) or "an error"
    return Refused(Code.NO_ANSWER, f"The line of the batch holds no answer, but: {str(why)[:300]}")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def singles(line: dict[str, Any]) -> list[dict[str, Any]]:
    """A line with several answers as lines with one each; `[line]` where it has one, or one in several parts.

    The choices of a chat are answers of their own. The texts of a message are, if each of them is JSON by itself.
    """
    result = line.get("result")
    message = result.get("message") if isinstance(result, dict) else None
    if isinstance(result, dict) and isinstance(message, dict):
        parts = _objects(message.get("content"))
        return [
            {**line, "result": {**result, "message": {**message, "content": [part]}}} for part in _apart(parts)
        ] or [line]
    response = line.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    if not isinstance(response, dict) or not isinstance(body, dict):
        return [line]
    choices = _objects(body.get("choices"))
    if len(choices) > 1:
        return [{**line, "response": {**response, "body": {**body, "choices": [each]}}} for each in choices]
    messages = [each for each in _objects(body.get("output")) if each.get("type") == "message"]
    parts = _apart([part for each in messages for part in _objects(each.get("content"))])
    return [
        {**line, "response": {**response, "body": {**body, "output": [{"type": "message", "content": [part]}]}}}
        for part in parts
    ] or [line]


def _apart(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts with a text, if there are several and each is JSON by itself; else none."""
    texts = [part for part in parts if isinstance(part.get("text"), str) and part["text"].strip()]
    if len(texts) < 2:
        return []
    for part in texts:
        text = part["text"].strip()
        try:
            if not isinstance(value_of(text), dict | list):
                return []
        except ValueError:
            return []
    return texts
