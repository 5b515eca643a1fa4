"""Adds to a wheelhouse what hosts with other versions of Python need: `make wheelhouse PYTHONS="3.12 3.13"` runs it.

    python more_wheels.py WHEELHOUSE VERSION REQUIREMENTS...

Wheels that serve any version are there already; the others are fetched in the version that the requirements pin, and
have to have one of the hashes there.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_GLIBC = (5, 12, 17, 24, 27, 28, 31, 34)  # manylinux_2_N: none is newer than the oldest host's
_ANY = re.compile(r"-(py3-none|py2\.py3-none|cp\d+-abi3)-")


def pinned(path: Path) -> Iterator[tuple[str, str]]:
    """The requirements of a file as `uv pip compile --generate-hashes` writes it: name, and the lines."""
    for block in re.split(r"\n(?=\S)", path.read_text()):
        if found := re.match(r"([a-z0-9.-]+)==", block):
            yield re.sub(r"[-_.]+", "_", found[1]), block


def is_there(wheelhouse: Path, name: str, version: str) -> bool:
    """Whether a wheel that serves this version of Python is there, or nobody needs one."""
    wheels = [wheel.name for wheel in wheelhouse.glob("*.whl") if wheel.name.lower().startswith(f"{name}-")]
    this = f"-cp{version.replace('.', '')}-"
    return not wheels or any(_ANY.search(wheel) or this in wheel for wheel in wheels)


def fetch(wheelhouse: Path, version: str, requirements: list[Path]) -> int:
    """Fetch what is missing; returns how many. Raises `CalledProcessError` after pip has said why it can't."""
    missing = [
        lines for path in requirements for name, lines in pinned(path) if not is_there(wheelhouse, name, version)
    ]
    if not missing:
        return 0
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write("\n".join(missing) + "\n")
        wanted.flush()
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", f"--python-version={version}"]
        where = ["--dest", str(wheelhouse), "--requirement", wanted.name]
        command = [sys.executable, "-m", "pip", "download", *options, "--platform=manylinux2014_x86_64"]
        subprocess.run([*command, *platforms, *where], check=True)
    return len(missing)


if __name__ == "__main__":
    try:
        count = fetch(Path(sys.argv[1]), sys.argv[2], [Path(path) for path in sys.argv[3:]])
    except subprocess.CalledProcessError:
        raise SystemExit(f"There are no wheels of everything for Python {sys.argv[2]}; see above.") from None
    print(f"{count} wheels more for Python {sys.argv[2]}")
