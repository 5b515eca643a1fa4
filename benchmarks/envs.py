"""The peers' environments: one each, made from a pinned list, made again when the list changes."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ENVS = HERE / ".envs"


def python(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made first if need be. Raises CalledProcessError."""
    wanted = (HERE / "peers" / peer / "requirements.txt").read_text()
    folder = ENVS / peer
    stamp = folder / "installed.txt"
    interpreter = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == f"{sys.version}\n{wanted}" and interpreter.exists():
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    requirements = HERE / "peers" / peer / "requirements.txt"
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(requirements))
    subprocess.run([interpreter, "-m", "pip", "install", *options], check=True)
    stamp.write_text(f"{sys.version}\n{wanted}")
    return interpreter


def versions(peer: str, *packages: str) -> str:
    """The pinned versions of `packages`, for example "rq 3.0.0"."""
    lines = (HERE / "peers" / peer / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    return ", ".join(f"{package} {pinned[package]}" for package in packages)
