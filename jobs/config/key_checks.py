"""What `security.api_keys`, `api_keys_file` and `jwt_secret` may hold."""

import re
from collections.abc import Iterator

from llm_scheduler.jobs.config.model import Security
from llm_scheduler.jobs.config.problem import Problem

# A key of the configuration may be given by its hash, so that the file holds nothing that opens anything.
HASHED = "sha256:"
SECRET_BYTES = 32  # RFC 7518, 3.2: a key for HS256 has at least the size of its hash
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
# Signing libraries refuse these for HS256: whoever writes one there means another kind of signature.
_KEY_FILES = ("-----BEGIN", "ssh-", "{")
_HIDDEN = '"(hidden)"'


def access_problems(security: Security) -> Iterator[Problem]:
    """Everything that is wrong with the keys and the secret of tokens; nothing of them is shown."""
    for name in ("admin", "readonly"):
        key: str = getattr(security.api_keys, name)
        if key.startswith(HASHED) and not _HASH.fullmatch(key):
            allowed = f"a key, or {HASHED} and the 64 digits of its SHA-256 (0-9, a-f)"
            yield Problem(f"security.api_keys.{name}", _HIDDEN, allowed)
    if "\0" in security.api_keys_file:
        yield Problem("security.api_keys_file", repr(security.api_keys_file), "a path without NUL characters")
    if not security.jwt_enabled:
        return
    secret = security.jwt_secret
    if not secret:
        yield Problem("security.jwt_secret", "nothing", _secret("since security.jwt_enabled is true"))
    elif len(secret.encode()) < SECRET_BYTES:
        found = f"{_HIDDEN} of {len(secret.encode())} bytes"
        yield Problem("security.jwt_secret", found, _secret("or else every token gives it away to who can guess it"))
    elif secret.lstrip().startswith(_KEY_FILES):
        yield Problem("security.jwt_secret", _HIDDEN, _secret("not the content of a key file"))


def _secret(why: str) -> str:
    return f"a secret of at least {SECRET_BYTES} bytes, as `openssl rand -base64 48` prints, {why}"
