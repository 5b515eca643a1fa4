#!/usr/bin/python
"""Writes several small files in one task. Decision 0018 says what it saves compared with a loop over `copy`."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: llm_files
short_description: Write several small text files at once
description:
  - Writes each file completely and renames it into its place, so that no reader sees a part of it.
  - Reports the changed paths and their diff, and supports check mode.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The path of the file. A missing folder is made.
        type: path
        required: true
      content:
        description: The text of the file. Without it and without C(secret), the file is removed.
        type: str
      secret:
        description: The text of a file that contains secrets. Neither logs nor diffs show it.
        type: str
      mode:
        description: The permissions, as an octal number.
        type: str
        default: "0644"
      owner:
        description: The user that owns the file.
        type: str
        default: root
      group:
        description: The group of the file.
        type: str
        default: root
      once:
        description: Only make the file. An existing file keeps its content, owner and permissions.
        type: bool
        default: false
      validate:
        description: A command that must succeed before the file is put in place; C(%s) is a copy. Not in check mode.
        type: str
author: LLM JSON scheduler
"""

EXAMPLES = r"""
- name: Set the kernel
  llm_files:
    files:
      - path: /etc/sysctl.d/60-llm.conf
        content: |
          vm.overcommit_memory = 1
"""

RETURN = r"""
paths:
  description: The files that were written or removed; in check mode, that would be.
  type: list
  elements: str
  returned: always
"""

import grp
import os
import pwd
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

UNKNOWN = -1  # the id of a user or group that does not exist yet, as in check mode on a bare host


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
            diff = _apply(wanted, module)
        except (OSError, ValueError) as error:
            module.fail_json(msg=f"{wanted['path']} can't be written: {error}", paths=changed)
        if diff is not None:
            changed.append(wanted["path"])
            diffs.append(diff)
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


def _apply(wanted: dict[str, Any], module: AnsibleModule) -> dict[str, str] | None:
    """Write or remove one file. Returns the diff, or None if the file is as wanted."""
    path, check = wanted["path"], module.check_mode
    current = _read(path)
    text = wanted["content"] if wanted["secret"] is None else wanted["secret"]
    if text is None:
        return _remove(path, current, check)
    if wanted["once"] and current is not None:
        return None
    content = text.encode()
    mode = int(wanted["mode"], 8)
    owner, group = _owner(wanted, check)
    if current == (content, mode, owner, group):
        return None
    if not check:
        _write(path, content, (mode, owner, group), wanted["validate"], module)
    return {
        "before_header": _header(path, current[1:] if current else None),
        "before": _shown(wanted, current[0] if current else b"", "(hidden)\n"),
        "after_header": _header(path, (mode, owner, group)),
        "after": _shown(wanted, content, "(hidden, but different)\n"),
    }


def _read(path: str) -> tuple[bytes, int, int, int] | None:
    """Content, mode, owner and group of the file; None if there is no regular file. Raises ValueError for a folder."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise ValueError("a folder is in its place; move the folder away")
        return None
    with open(path, "rb") as file:
        return file.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def _owner(wanted: dict[str, Any], check: bool) -> tuple[int, int]:
    try:
        return pwd.getpwnam(wanted["owner"]).pw_uid, grp.getgrnam(wanted["group"]).gr_gid
    except KeyError:
        if not check:
            raise ValueError(f"the user {wanted['owner']!r} or the group {wanted['group']!r} does not exist") from None
        return UNKNOWN, UNKNOWN


def _remove(path: str, current: tuple[bytes, int, int, int] | None, check: bool) -> dict[str, str] | None:
    if not os.path.lexists(path):
        return None
    if not check:
        os.unlink(path)
    before = "(a file)\n" if current else "(a link)\n"  # its text may be secret
    return {"before_header": path, "before": before, "after_header": path, "after": ""}


def _write(
    path: str, content: bytes, ownership: tuple[int, int, int], command: str | None, module: AnsibleModule
) -> None:
    """Write the file beside `path`, validate it with `command`, and rename it. Raises ValueError if it is not valid."""
    folder = os.path.dirname(path)
    mode, owner, group = ownership
    os.makedirs(folder, mode=0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if command is not None:
            _validate(command, temporary, module)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _validate(command: str, path: str, module: AnsibleModule) -> None:
    status, out, err = module.run_command(command.replace("%s", path))
    if status != 0:
        raise ValueError(f"it does not pass `{command}`: {(err or out).strip()}")


def _shown(wanted: dict[str, Any], content: bytes, hidden: str) -> str:
    return content.decode(errors="replace") if wanted["secret"] is None else hidden


def _header(path: str, ownership: tuple[int, ...] | None) -> str:
    if ownership is None:
        return f"{path} (missing)"
    mode, owner, group = ownership
    return f"{path} ({mode:04o} {owner}:{group})"


if __name__ == "__main__":
    main()
