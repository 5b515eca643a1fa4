"""The peers' virtual environments: one each, made from pinned requirements, made again when those change."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ENVS = HERE / ".envs"


def python(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made first if necessary. Raises CalledProcessError."""
    requirements = _requirements(peer)
    wanted = requirements.read_text()
    folder = ENVS / peer
    stamp = folder / "installed.txt"
    interpreter = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == f"{sys.version}\n{wanted}" and interpreter.exists():
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(requirements))
    subprocess.run([interpreter, "-m", "pip", "install", *options], check=True)
    stamp.write_text(f"{sys.version}\n{wanted}")
    return interpreter


def versions(peer: str, *packages: str) -> str:
    """The pinned versions of `packages`, for example "rq 3.0.0"."""
    lines = _requirements(peer).read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    return ", ".join(f"{package} {pinned[package]}" for package in packages)


def _requirements(peer: str) -> Path:
    return HERE / "peers" / peer / "requirements.txt"
