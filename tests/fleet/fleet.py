"""A fleet for tests: run playbooks, drop documents, and wait for their results."""

import json
import os
import re
import secrets
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import inventory
from hosts import Host, Hosts

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / ".venv-fleet" / "bin" / "ansible-playbook"
SPOOL = "/var/lib/llm"
# Runs on a host: prints the numbers of documents in each folder. The name of each file contains its number.
_COUNT_SCRIPT = """
import collections, json, os, re, sys
counts = collections.Counter()
numbers = collections.defaultdict(list)
for place in ("raw", "temp", "processed", "archive", "errors"):
    for folder, _, names in os.walk(os.path.join(sys.argv[1], place)):
        for name in names:
            found = re.search(r"doc-([a-z0-9]+-[0-9]+)", name)
            if found and not name.endswith(".tmp"):
                numbers[place].append(found[1])
print(json.dumps(numbers))
"""


@dataclass(frozen=True)
class PlaybookRun:
    """The result of a playbook. `changed` is the number of changed tasks by host."""

    status: int
    output: str
    seconds: float
    changed: dict[str, int] = field(default_factory=dict)

    def ok(self) -> "PlaybookRun":
        """Return the run itself. Fails with the failed tasks if the playbook failed."""
        failed = [part for part in self.output.split("\nTASK") if "fatal:" in part or "FAILED" in part]
        assert self.status == 0, "\n".join(failed)[-6000:] or self.output[-4000:]
        return self

    def changes(self) -> list[str]:
        """The changed tasks with their output. Fails if the playbook failed."""
        self.ok()
        found = [part for part in self.output.split("\nTASK") if "changed: [" in part]
        assert len(found) > 0 or set(self.changed.values()) == {0}
        return [part[:600] for part in found]


class Fleet:
    """The hosts of `inventory`, with the scheduler on them."""

    def __init__(self, hosts: Hosts, folder: Path, **variables: Any) -> None:
        self.hosts = hosts
        self.folder = folder
        self.variables = variables
        self.inventory = inventory.write(hosts, folder, **variables)
        self._secrets = folder / "secrets"
        self._series = 0
        self._run = secrets.token_hex(2)  # hosts may still have documents of a former run
        self.deployed = PlaybookRun(1, "not deployed yet", 0.0)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def play(self, playbook: str, *arguments: str, **variables: Any) -> PlaybookRun:
        """Run a playbook of ansible/."""
        extra = ["--extra-vars", json.dumps(variables)] if variables else []
        began = time.monotonic()
        done = subprocess.run(
            [str(ANSIBLE), "-i", str(self.inventory), f"{playbook}.yml", *arguments, *extra],
            cwd=ROOT / "ansible",
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        changed = dict(re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE))
        seconds = time.monotonic() - began
        print(f"\n{playbook}.yml {' '.join(arguments)}: {seconds:.0f} s")
        return PlaybookRun(
            done.returncode,
            done.stdout + done.stderr,
            seconds,
            {host: int(number) for host, number in changed.items()},
        )

    def secret(self, name: str) -> str:
        """A generated secret."""
        return (self._secrets / name).read_text().strip()

    def secrets(self) -> list[str]:
        """The names of all secrets that only root may see."""
        return sorted(
            each.name
            for each in self._secrets.iterdir()
            if each.is_file() and "PRIVATE" not in each.read_text() and each.suffix not in (".crt", ".srl")
        )

    def http(self) -> httpx.Client:
        """A client for the API behind the balancer, with the admin key."""
        context = ssl.create_default_context(cafile=self._secrets / "ca.crt")
        return httpx.Client(
            base_url=f"https://{self['ingest1'].address}",
            verify=context,
            headers={"X-API-Key": self.secret("api_key_admin")},
            timeout=20,
        )

    # Documents

    def drop(self, count: int, size: int = 200) -> list[str]:
        """Drop `count` documents of about `size` bytes into the watch folder. Returns their numbers."""
        self._series += 1
        series = f"{self._run}s{self._series}"
        script = (
            "import os, sys\n"
            f"for n in range({count}):\n"
            f"    path = '{SPOOL}/raw/doc-{series}-%d.json' % n\n"
            f"    open(path + '.tmp', 'w').write('{{\"content\": \"%s\", \"n\": %d}}' % ('x' * {size}, n))\n"
            "    os.chmod(path + '.tmp', 0o660); os.rename(path + '.tmp', path)\n"
        )
        self["ingest1"].run("python3 -", script.encode())
        return [f"{series}-{number}" for number in range(count)]

    def numbers_by_folder(self) -> dict[str, list[str]]:
        """The numbers of the documents in each folder, once for each file."""
        found: dict[str, list[str]] = json.loads(self["ingest1"].run(f"python3 - {SPOOL}", _COUNT_SCRIPT.encode()))
        return found

    def finish(self, numbers: list[str], seconds: float = 180) -> float:
        """Wait for the results of all `numbers`. Returns the seconds. Fails if one is lost or is there twice."""
        began = time.monotonic()

        def is_done() -> bool:
            found = self.numbers_by_folder()
            return set(numbers) <= set(found.get("processed", [])) and set(numbers) <= set(found.get("archive", []))

        wait_until(is_done, f"the results of {len(numbers)} documents", seconds, self.describe)
        found = self.numbers_by_folder()
        mine = set(numbers)
        for place in ("processed", "archive"):
            copies = [number for number in found[place] if number in mine]
            assert len(copies) == len(set(copies)), f"{place} has documents twice"
        for place in ("raw", "temp", "errors"):
            assert not mine & set(found.get(place, [])), f"{place} has documents that are done"
        return time.monotonic() - began

    def describe(self) -> str:
        """The state of the fleet, for the message of a failed test."""
        host = self["ingest1"]
        counts = {place: len(numbers) for place, numbers in self.numbers_by_folder().items()}
        status = host.try_run("llmctl status").stdout
        journal = host.try_run("journalctl -u 'llm-*' -n 25 --no-pager -o short-precise").stdout
        return f"{counts}\n{status}\n{journal}"


def wait_until(
    condition: Callable[[], Any], what: str, seconds: float = 60, explain: Callable[[], str] | None = None
) -> float:
    """Wait for `condition`. Returns the seconds. After `seconds` it fails with `what` and the text of `explain`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"after {seconds:g} s still missing: {what}\n{explain() if explain else ''}")
        time.sleep(0.3)
    return time.monotonic() - began
