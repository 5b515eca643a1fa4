"""A handler's result as JSON text."""

import math

import msgspec


class ResultTooLarge(Exception):
    """A result has more bytes than `processing.max_result_bytes`."""


def encode_result(result: object, max_bytes: int | None = None) -> bytes:
    """Raises TypeError or ValueError for what JSON cannot hold (NaN, for example), and ResultTooLarge."""
    text = msgspec.json.encode(result)
    if max_bytes is not None and len(text) > max_bytes:
        raise ResultTooLarge(
            f"The result is too large: {len(text)} bytes, at most {max_bytes} (processing.max_result_bytes)."
        )
    text.decode("utf-8")
    if b"null" in text:  # msgspec writes NaN and infinities as null
        _check_numbers(msgspec.to_builtins(result))
    return text


def _check_numbers(result: object) -> None:
    pending = [result]
    while pending:
        value = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the handler's result holds {value}, which JSON can't express")
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            pending.extend(value)
