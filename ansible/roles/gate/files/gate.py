"""Whether the fleet is ready and gets documents done: run by the role `gate` on the host with the folders.

Gets what to look for as JSON in the line below this text; ends with status 1 and a sentence where nothing gets through.
"""

import contextlib
import itertools
import json
import os
import pwd
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

PAUSE_SECONDS = 0.2


class Gate:
    """What was asked, and until when."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        # Read here, and not asked: what Ansible is told may be shown, this file never is.
        with open(asked["key_file"]) as file:
            self.key = file.read()
        self.until = time.monotonic() + float(asked["patience"])

    def wait(self, look: Callable[[], str | None]) -> None:
        """Until `look` finds nothing wrong; the last thing that it found is why there is no way through."""
        while (wrong := look()) is not None:
            if time.monotonic() > self.until:
                refuse(f"{wrong} (waited {self.asked['patience']} s)")
            time.sleep(PAUSE_SECONDS)

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the answer of the API; 0 while it can't be reached."""
        request = urllib.request.Request(self.asked["url"] + path, headers={"X-API-Key": self.key})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with contextlib.suppress(ValueError):
                return error.code, json.load(error)
            return error.code, {}
        except (OSError, ValueError):
            return 0, {}


def refuse(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    raise SystemExit(1)


def main(asked: dict[str, Any]) -> None:
    gate = Gate(asked)
    gate.wait(lambda: not_ready(gate))
    if asked["host"]:
        gate.wait(lambda: not_manned(gate))
    begun = time.monotonic()
    for queue in asked["workers"] if asked["host"] else asked["queues"]:
        send_through(gate, queue)
    print(f"ready, and documents took {time.monotonic() - begun:.1f} s")


def not_ready(gate: Gate) -> str | None:
    status, found = gate.get("/ready")
    if status == 200:
        return None
    if status == 0:
        return f"The API does not answer at {gate.asked['url']}. Look at it: journalctl -u llm-api"
    return "Not ready: " + " ".join(check["message"] for check in found.get("checks", []) if not check["ok"])


def workers_there(gate: Gate) -> list[dict[str, Any]]:
    found = gate.get("/workers")[1].get("workers", [])
    return [each for each in found if each["host"] == gate.asked["host"] and each["version"] == gate.asked["version"]]


def not_manned(gate: Gate) -> str | None:
    there = workers_there(gate)
    for queue, count in gate.asked["workers"].items():
        found = sum(each["queue"] == queue for each in there)
        if found < count:
            return (
                f"{gate.asked['host']} has {found} of {count} workers of {queue} in {gate.asked['version']}. Look "
                f"at them there: journalctl -u 'llm-worker@{queue}*'"
            )
    return None


def done_there(gate: Gate, queue: str) -> int:
    return sum(each["jobs_done"] for each in workers_there(gate) if each["queue"] == queue)


def send_through(gate: Gate, queue: str) -> None:
    """Documents of this queue, one after the other, until one is done: by a worker of the host, if one is named."""
    host = gate.asked["host"]
    before = done_there(gate, queue) if host else 0
    for sent in itertools.count(1):
        send_one(gate, queue)
        if not host or done_there(gate, queue) > before:
            return
        if time.monotonic() > gate.until:
            refuse(f"{sent} documents of {queue} were done, and none of them by {host}. Look at its workers there.")


def send_one(gate: Gate, queue: str) -> None:
    name = f"gate/{queue}-{uuid.uuid4().hex[:12]}.json"
    document = dict(gate.asked["document"])
    document["metadata"] = {**document.get("metadata", {}), "priority": queue}
    drop(gate.asked["watch"], name, json.dumps(document))
    gate.wait(lambda: not_done(gate, queue, name))


def not_done(gate: Gate, queue: str, name: str) -> str | None:
    report = os.path.join(gate.asked["errors"], name + ".error.json")
    if os.path.exists(report):
        with open(report) as file:
            found = json.load(file)
        refuse(
            f"A document of {queue} was rejected: {found.get('code')}: {found.get('message')} If your handlers need "
            "other documents than this one, set llm_gate_document."
        )
    if os.path.exists(os.path.join(gate.asked["output"], name)):
        return None
    return f"A document of {queue} does not come back ({name}). llmctl status tells where documents are."


def drop(folder: str, name: str, text: str) -> None:
    """As the daemons' user: they move the file."""
    user = pwd.getpwnam("llm")
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.chown(os.path.dirname(path), user.pw_uid, user.pw_gid)
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tmp")
    with open(temporary, "w") as file:
        file.write(text)
    os.chown(temporary, user.pw_uid, user.pw_gid)
    os.rename(temporary, path)
    flush()


def flush() -> None:
    """Let it go at once where documents wait for company."""
    subprocess.run(["/usr/local/sbin/llmctl", "flush"], capture_output=True, timeout=30, check=False)
