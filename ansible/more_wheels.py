"""Adds the wheels for other versions of Python to a wheelhouse: `make wheelhouse PYTHONS="3.12 3.13"` runs it.

    python more_wheels.py WHEELHOUSE VERSION REQUIREMENTS...

Wheels that work for every version are there already. The others are downloaded in the version that the requirements
pin, with one of the hashes there.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_GLIBC = (5, 12, 17, 24, 27, 28, 31, 34)  # manylinux_2_N, up to the glibc of the oldest supported host
_ANY_PYTHON = re.compile(r"-(py3-none|py2\.py3-none|cp\d+-abi3)-")


def pinned(path: Path) -> Iterator[tuple[str, str]]:
    """Name and lines of each requirement in a file that `uv pip compile --generate-hashes` wrote."""
    for block in re.split(r"\n(?=\S)", path.read_text()):
        if found := re.match(r"([a-z0-9.-]+)==", block):
            yield re.sub(r"[-_.]+", "_", found[1]), block


def is_present(wheelhouse: Path, name: str, version: str) -> bool:
    """Whether the wheelhouse needs no further wheel of `name` for this version of Python.

    A requirement without any wheel is not needed on this system.
    """
    wheels = [wheel.name for wheel in wheelhouse.glob("*.whl") if wheel.name.lower().startswith(f"{name}-")]
    tag = f"-cp{version.replace('.', '')}-"
    return not wheels or any(_ANY_PYTHON.search(wheel) or tag in wheel for wheel in wheels)


def download(wheelhouse: Path, version: str, requirements: list[Path]) -> int:
    """Download the missing wheels; returns their number. Raises `CalledProcessError` after pip printed the reason."""
    missing = [
        lines for path in requirements for name, lines in pinned(path) if not is_present(wheelhouse, name, version)
    ]
    if not missing:
        return 0
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write("\n".join(missing) + "\n")
        wanted.flush()
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", f"--python-version={version}"]
        files = ["--dest", str(wheelhouse), "--requirement", wanted.name]
        command = [sys.executable, "-m", "pip", "download", *options, "--platform=manylinux2014_x86_64"]
        subprocess.run([*command, *platforms, *files], check=True)
    return len(missing)


if __name__ == "__main__":
    try:
        count = download(Path(sys.argv[1]), sys.argv[2], [Path(path) for path in sys.argv[3:]])
    except subprocess.CalledProcessError:
        raise SystemExit(f"Some wheels for Python {sys.argv[2]} are missing; see pip's messages above.") from None
    print(f"{count} more wheels for Python {sys.argv[2]}")
