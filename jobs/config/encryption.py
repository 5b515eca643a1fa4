"""The form of `security.encryption_key` and of `security.encrypt_sensitive_fields`."""

import base64
import binascii
import re
from collections.abc import Sequence

KEY = "32 random bytes in URL-safe base 64 (44 characters), as `llmctl config new-key` prints"
FIELD = "the name of a field, or a JSON pointer (/patient/name) in which ~ is written ~0, and a / within a key ~1"


def split_keys(value: str | Sequence[str]) -> tuple[str, ...]:
    """The keys, the sealing key first. A string may hold several, separated by lines or commas."""
    texts = [value] if isinstance(value, str) else value
    return tuple(key for text in texts for key in re.split(r"[\s,]+", text) if key)


def is_key(key: str) -> bool:
    """Whether `key` is a Fernet key (https://github.com/fernet/spec)."""
    try:
        return len(key) == 44 and len(base64.b64decode(key.encode(), b"-_", validate=True)) == 32
    except (ValueError, binascii.Error):
        return False


def is_field(field: str) -> bool:
    """Whether `field` is a name or a JSON pointer (RFC 6901)."""
    return not (field.startswith("/") and re.search(r"~(?![01])", field))
