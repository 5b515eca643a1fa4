"""Tests whether the fleet is ready and processes documents. The role `smoke_test` runs it on the ingest host.

The line below this text calls `main` with the parameters. On failure it prints the reason and ends with status 1.
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


class SmokeTest:
    """The parameters of the test, and the time when it has to be over."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        # The file is read here, because Ansible may show parameters.
        with open(parameters["key_file"]) as file:
            self.key = file.read()
        self.deadline = time.monotonic() + float(parameters["patience"])

    def wait(self, find_problem: Callable[[], str | None]) -> None:
        """Wait until `find_problem` returns None. At the deadline the test fails with the last problem."""
        while (problem := find_problem()) is not None:
            if time.monotonic() > self.deadline:
                fail(f"{problem} (waited {self.parameters['patience']} s)")
            time.sleep(PAUSE_SECONDS)

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the JSON body of the API's answer; status 0 when the API cannot be reached."""
        request = urllib.request.Request(self.parameters["url"] + path, headers={"X-API-Key": self.key})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with contextlib.suppress(ValueError):
                return error.code, json.load(error)
            return error.code, {}
        except (OSError, ValueError):
            return 0, {}


def fail(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    raise SystemExit(1)


def main(parameters: dict[str, Any]) -> None:
    test = SmokeTest(parameters)
    test.wait(lambda: not_ready(test))
    if parameters["host"]:
        test.wait(lambda: workers_missing(test))
    start = time.monotonic()
    for queue in parameters["workers"] if parameters["host"] else parameters["queues"]:
        check_queue(test, queue)
    print(f"ready; the test documents took {time.monotonic() - start:.1f} s")


def not_ready(test: SmokeTest) -> str | None:
    status, body = test.get("/ready")
    if status == 200:
        return None
    if status == 0:
        return f"The API does not answer at {test.parameters['url']}. See journalctl -u 'llm-api@*' on its host."
    return "Not ready: " + " ".join(check["message"] for check in body.get("checks", []) if not check["ok"])


def workers_of_host(test: SmokeTest) -> list[dict[str, Any]]:
    """The workers of the host under test that run the version under test."""
    workers = test.get("/workers")[1].get("workers", [])
    wanted = (test.parameters["host"], test.parameters["version"])
    return [worker for worker in workers if (worker["host"], worker["version"]) == wanted]


def workers_missing(test: SmokeTest) -> str | None:
    workers = workers_of_host(test)
    for queue, count in test.parameters["workers"].items():
        found = sum(worker["queue"] == queue for worker in workers)
        if found < count:
            return (
                f"{test.parameters['host']} has {found} of {count} workers for {queue} in version "
                f"{test.parameters['version']}. See journalctl -u 'llm-worker@{queue}*' there."
            )
    return None


def jobs_done_by_host(test: SmokeTest, queue: str) -> int:
    return sum(worker["jobs_done"] for worker in workers_of_host(test) if worker["queue"] == queue)


def check_queue(test: SmokeTest, queue: str) -> None:
    """Send documents, one after the other, until one is done. If a host is under test, its workers must do one."""
    host = test.parameters["host"]
    before = jobs_done_by_host(test, queue) if host else 0
    for sent in itertools.count(1):
        check_document(test, queue)
        if not host or jobs_done_by_host(test, queue) > before:
            return
        if time.monotonic() > test.deadline:
            fail(f"{sent} documents of {queue} were done, but none of them by {host}. See the journal of its workers.")


def check_document(test: SmokeTest, queue: str) -> None:
    """Send one document to a queue, and wait for its result."""
    name = f"smoke-test/{queue}-{uuid.uuid4().hex[:12]}.json"
    document = dict(test.parameters["document"])
    document["metadata"] = {**document.get("metadata", {}), "priority": queue}
    drop(test.parameters["watch"], name, json.dumps(document))
    test.wait(lambda: not_done(test, queue, name))


def not_done(test: SmokeTest, queue: str, name: str) -> str | None:
    report = os.path.join(test.parameters["errors"], name + ".error.json")
    if os.path.exists(report):
        with open(report) as file:
            error = json.load(file)
        fail(
            f"A document of {queue} was rejected: {error.get('code')}: {error.get('message')} If your handlers need "
            "another document, set llm_smoke_test_document."
        )
    if os.path.exists(os.path.join(test.parameters["output"], name)):
        return None
    return f"A document of {queue} has no result yet ({name}). llmctl status shows where documents are."


def drop(folder: str, name: str, text: str) -> None:
    """Write a document as the user of the daemons, who have to move it."""
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
    """Flush the batches, so that the document does not wait in one."""
    subprocess.run(["/usr/local/sbin/llmctl", "flush"], capture_output=True, timeout=30, check=False)
