"""What the daemons may be told on the command line, and what they say to anything else."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import mostly_slow

DAEMONS = {
    "llm-ingest": "llm_scheduler.ingest.daemon",
    "llm-collector": "llm_scheduler.ingest.collector",
    "llm-scheduler": "llm_scheduler.jobs.scheduler.scheduler",
    "llm-worker": "llm_scheduler.jobs.worker.worker",
    "llm-api": "llm_scheduler.api.server",
}


def run(module: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("program", mostly_slow(DAEMONS, 2))
def test_a_misspelt_option_starts_nothing(program: str, tmp_path: Path) -> None:
    queue = ["high"] if program == "llm-worker" else []
    said = run(DAEMONS[program], tmp_path, *queue, "--conifg", "x.json")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith(f"usage: {program}")
    assert "--conifg" in said.stderr
    assert list(tmp_path.iterdir()) == [], "no folder is made"


@pytest.mark.parametrize("program", DAEMONS)
def test_help_and_version(program: str, tmp_path: Path) -> None:
    said = run(DAEMONS[program], tmp_path, "--help")
    assert (said.returncode, "--config FILE" in said.stdout) == (0, True)
    version = run(DAEMONS[program], tmp_path, "--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, program)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    mostly_slow(
        [
            (["high", "--config"], 2, "expected one argument"),
            ([], 2, "QUEUE"),
            (["high", "low"], 2, "unrecognized"),
            (["high.x"], 78, "'high.x' is not a queue. Allowed: high, medium, low"),
            (["high.2.3"], 78, "'high.2.3' is not a queue"),
            (["high."], 78, "'high.' is not a queue"),
            (["hihg.2"], 78, "'hihg.2' is not a queue"),
        ],
        4,
    ),
)
def test_a_worker_says_what_it_can_not_do(arguments: list[str], status: int, words: str, tmp_path: Path) -> None:
    said = run("llm_scheduler.jobs.worker.worker", tmp_path, *arguments)
    assert said.returncode == status
    assert words in said.stderr
    assert "Traceback" not in said.stderr
