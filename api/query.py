"""Query parameters: taken by name, checked, and refused with the parameter, its value and what is allowed."""

from collections.abc import Sequence
from typing import Never

from starlette.requests import Request

from api.problems import ProblemError


def parameters(request: Request, *allowed: str) -> dict[str, str]:
    """The query of `request`: only `allowed` parameters, each once, empty ones left out. Raises a 422."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            words = ", ".join(allowed) if allowed else "none"
            raise ProblemError(
                422,
                f"{name!r} is not a parameter of {request.url.path}. Allowed: {words}.",
                parameter=name,
                value=value,
                allowed=list(allowed),
            )
        if name in found:
            refuse(name, value, "one value, not several")
        if value:  # `?status=` is what a form sends for a field left empty
            found[name] = value
    return found


def choice(name: str, value: str | None, options: Sequence[str]) -> str | None:
    """`value` if it is one of `options`; None stays None."""
    if value is not None and value not in options:
        refuse(name, value, list(options))
    return value


def whole_number(name: str, value: str | None, default: int, least: int, most: int) -> int:
    """`value` as a number from `least` to `most`."""
    if value is None:
        return default
    # Not int() alone: it also takes "+5", "1_0", " 5 " and digits of other scripts.
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and least <= int(value) <= most):
        refuse(name, value, f"a whole number from {least} to {most}")
    return int(value)


def refuse(name: str, value: str, allowed: str | list[str]) -> Never:
    """Raise the problem for a bad value."""
    words = allowed if isinstance(allowed, str) else ", ".join(allowed)
    raise ProblemError(
        422,
        f"{name}={value[:100]!r} is not allowed. Allowed: {words}.",
        parameter=name,
        value=value[:100],
        allowed=allowed,
    )
