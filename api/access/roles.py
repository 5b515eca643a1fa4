"""Roles, and who is asking."""

from enum import StrEnum
from typing import Literal

import msgspec
from starlette.requests import Request


class Role(StrEnum):
    """What a caller may do, each more than the one before: look; hand in documents; retry, cancel, pause; all."""

    READONLY = "readonly"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request: the name of its key, how that was shown, and from which address. Without keys everybody on
    this machine is `local`, and may do all."""

    name: str
    role: Role
    how: Literal["key", "token", "local"]
    address: str = ""


def caller(request: Request) -> Caller:
    """The caller of `request`, whom the guard has let in."""
    found = request.scope["llm.caller"]
    assert isinstance(found, Caller)
    return found
