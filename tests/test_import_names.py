"""One import name, `llm_scheduler`: what a wheel holds, and what handlers of all ages may say."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import Fleet

ROOT = Path(__file__).parent.parent
OLD = """
from jobs.handler import Context, Reject

def handle(document, context: Context):
    if "no" in document:
        raise Reject("asked for")
    return {"old": document["id"]}
"""
OWN = """
from llm_scheduler import Context, Reject
from jobs.prices import PRICE

def handle(document, context: Context):
    if "no" in document:
        raise Reject("asked for")
    return {"own": PRICE}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def test_a_wheel_owns_one_import_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"llm_scheduler"}
    for name in (
        "jobs/worker/loop.py",
        "ingest/router/geo/places.bin",
        "api/dashboard/dashboard.css",
        "api/cli/sample_texts.toml",
        "py.typed",
    ):
        assert f"llm_scheduler/{name}" in names
    assert not [name for name in names if "/router/build/" in name], "build inputs stay out"


def test_a_wheel_runs_beside_a_project_with_the_same_folder_names(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which sees the packages that tests have, and not this checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(f"import sys; sys.path.append({path!r})" for path in libraries))
    project = tmp_path / "project"
    for folder in ("jobs", "api"):
        (project / folder).mkdir(parents=True)
        (project / folder / "__init__.py").touch()
    (project / "jobs" / "prices.py").write_text("PRICE = 7\n")
    (project / "jobs" / "mine.py").write_text(OWN)
    code = (
        "import llm_scheduler; from llm_scheduler.jobs.handler import load_handlers\n"
        "found = load_handlers({'default': 'jobs.mine:handle'})['default']\n"
        "print(found({}, None), llm_scheduler.__file__)"
    )
    python = tmp_path / "env" / "bin" / "python"
    shown = subprocess.run([python, "-P", "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["{'own':", "7}", str(site / "llm_scheduler" / "__init__.py")]


@pytest.mark.parametrize("where", ["own", "checkout"])
def test_handlers_written_before_the_one_import_name_run(fleet: Fleet, where: str) -> None:
    """Also where the working folder is a checkout, whose folder `jobs` must not be loaded a second time."""
    (fleet.folder / "old_handler.py").write_text(OLD)
    if where == "checkout":
        (fleet.folder / "jobs").symlink_to(ROOT / "jobs")
    fleet.configure(handlers={"default": "old_handler:handle", "built_in": "jobs.summary:summarise"})
    fleet.drop("good.json", '{"id": 1}')
    fleet.drop("bad.json", '{"no": 1}')
    fleet.start()
    fleet.wait_finished(2)
    assert fleet.results()[0]["result"] == {"old": 1}
    assert fleet.reports()[0]["code"] == "handler_rejected"


def test_a_projects_own_package_keeps_its_name(fleet: Fleet) -> None:
    (fleet.folder / "jobs").mkdir()
    (fleet.folder / "jobs" / "__init__.py").touch()
    (fleet.folder / "jobs" / "prices.py").write_text("PRICE = 7\n")
    (fleet.folder / "jobs" / "mine.py").write_text(OWN)
    fleet.configure(handlers={"default": "jobs.mine:handle"})
    fleet.drop("good.json", '{"id": 1}')
    fleet.drop("bad.json", '{"no": 1}')
    fleet.start()
    fleet.wait_finished(2)
    assert fleet.results()[0]["result"] == {"own": 7}
    assert fleet.reports()[0]["code"] == "handler_rejected"
