#!/usr/bin/python
"""Several small files in one round trip: what a loop over `copy` takes two round trips a file for."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_files
short_description: Write several small text files at once
description:
  - Writes each file whole and renames it into place, so that nobody reads half of one.
  - Reports the paths that changed, with their diff, and works in check mode.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where the file goes. Its folder is made when it is missing.
        type: path
        required: true
      content:
        description: The text of the file. Left out, and no C(secret) either, the file is removed.
        type: str
      secret:
        description: The text of a file that nobody is shown, be it a secret or hold some. Its diff says so only.
        type: str
      mode:
        description: Its permissions, as an octal number.
        type: str
        default: "0644"
      owner:
        description: The user that it belongs to.
        type: str
        default: root
      group:
        description: The group that it belongs to.
        type: str
        default: root
      once:
        description: Only make the file; leave one that is there as it is, content, owner and mode.
        type: bool
        default: false
      validate:
        description: A command that has to succeed before the file gets its place; C(%s) is a copy. Not in check mode.
        type: str
author: LLM JSON scheduler
"""

EXAMPLES = r"""
- name: The kernel's settings
  llm_files:
    files:
      - path: /etc/sysctl.d/60-llm.conf
        content: |
          vm.overcommit_memory = 1
"""

RETURN = r"""
paths:
  description: The files that were written or removed (in check mode, that would be).
  type: list
  elements: str
  returned: always
"""

import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

UNKNOWN = -1  # a user or group that is not there yet, which check mode on a bare host meets


def main() -> None:
    suboptions = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "secret": {"type": "str", "no_log": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "validate": {"type": "str"},
        "once": {"type": "bool", "default": False},
    }
    files = {"type": "list", "elements": "dict", "required": True, "options": suboptions}
    module = AnsibleModule(argument_spec={"files": files}, supports_check_mode=True)
    changed: list[str] = []
    diffs: list[dict[str, str]] = []
    for wanted in module.params["files"]:
        try:
            difference = _settle(wanted, module)
        except (OSError, KeyError, ValueError) as error:
            module.fail_json(msg=f"{wanted['path']} can't be written: {error}", paths=changed)
        if difference is not None:
            changed.append(wanted["path"])
            diffs.append(difference)
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


def _settle(wanted: dict[str, Any], module: AnsibleModule) -> dict[str, str] | None:
    """Bring one file to what is wanted; what differed, None when nothing did."""
    path, check = wanted["path"], module.check_mode
    found = _found(path)
    text = wanted["content"] if wanted["secret"] is None else wanted["secret"]
    if text is None:
        return _remove(path, found, check)
    if wanted["once"] and found is not None:
        return None
    content = text.encode()
    mode = int(wanted["mode"], 8)
    owner, group = _owner(wanted, check)
    if found == (content, mode, owner, group):
        return None
    if not check:
        _write(path, content, mode, owner, group, lambda copy: _validate(wanted["validate"], copy, module))
    return {
        "before_header": _header(path, found[1:] if found else None),
        "before": _shown(wanted, found[0] if found else b""),
        "after_header": _header(path, (mode, owner, group)),
        "after": _shown(wanted, content, "(hidden, and not the same)\n"),
    }


def _shown(wanted: dict[str, Any], content: bytes, hidden: str = "(hidden)\n") -> str:
    return content.decode(errors="replace") if wanted["secret"] is None else hidden


def _found(path: str) -> tuple[bytes, int, int, int] | None:
    """Content, mode, owner and group of what is there; None when there is no such regular file."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise ValueError("a folder is in its place; move it away")
        return None
    with open(path, "rb") as file:
        return file.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def _owner(wanted: dict[str, Any], check: bool) -> tuple[int, int]:
    try:
        return pwd.getpwnam(wanted["owner"]).pw_uid, grp.getgrnam(wanted["group"]).gr_gid
    except KeyError:
        if not check:
            raise ValueError(f"there is no user {wanted['owner']!r} or no group {wanted['group']!r}") from None
        return UNKNOWN, UNKNOWN


def _remove(path: str, found: tuple[bytes, int, int, int] | None, check: bool) -> dict[str, str] | None:
    if not os.path.lexists(path):
        return None
    if not check:
        os.unlink(path)
    before = found[0].decode(errors="replace") if found else "a link\n"
    return {"before_header": path, "before": before, "after_header": path, "after": ""}


def _validate(command: str | None, copy: str, module: AnsibleModule) -> None:
    """Raises ValueError with what the command says of the copy."""
    if command is None:
        return
    status, out, err = module.run_command(command.replace("%s", copy))
    if status != 0:
        raise ValueError(f"it does not pass `{command}`: {(err or out).strip()}")


def _write(path: str, content: bytes, mode: int, owner: int, group: int, check: Callable[[str], None]) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        check(temporary)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _header(path: str, ownership: tuple[int, ...] | None) -> str:
    if ownership is None:
        return f"{path} (missing)"
    mode, owner, group = ownership
    return f"{path} ({mode:04o} {owner}:{group})"


if __name__ == "__main__":
    main()
