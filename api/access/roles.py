"""Roles, and the caller of a request."""

from enum import StrEnum
from typing import Literal

import msgspec
from starlette.requests import Request


class Role(StrEnum):
    """Each role may do more than the one before: read; submit documents; retry, cancel and pause; everything."""

    READONLY = "readonly"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do everything that `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request: the name of the key, and how it was shown. Without keys every caller on this machine is
    `local` and may do everything."""

    name: str
    role: Role
    how: Literal["key", "token", "local"]


def caller(request: Request) -> Caller:
    """The caller that the guard has authenticated."""
    found = request.scope["llm.caller"]
    assert isinstance(found, Caller)
    return found
