"""A running ingest loads a new industry model and ignores a broken one."""

import json
import os
from pathlib import Path

import pytest
from conftest import Fleet, wait_until
from typer.testing import CliRunner

from llm_scheduler.api.cli import app
from llm_scheduler.ingest.router import Router
from llm_scheduler.jobs.config import Config, ConfigError, load
from llm_scheduler.jobs.config.model import Routing

run = CliRunner().invoke
WORDS = {"fruit": "apple banana cherry orchard juice", "metal": "steel copper furnace alloy smelter"}


def trained(folder: Path, name: str, labels: dict[str, str]) -> Path:
    """A model that gives texts about fruit and about metal these labels."""
    data, out = folder / f"{name}.jsonl", folder / name
    rows = [
        {"text": f"{word} {other}", "label": labels[kind]}
        for kind, words in WORDS.items()
        for word in words.split()
        for other in words.split()
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    done = run(app, ["router", "train", "--data", str(data), "--taxonomy", "own", "--out", str(out), "--no-labels"])
    assert done.exit_code == 0, done.output
    return out


def routing(model: Path) -> Routing:
    return Routing(geo_detection=False, language_detection=False, industry_model=str(model))


def test_a_router_loads_a_new_model_and_keeps_the_old_one_if_that_is_broken(tmp_path: Path) -> None:
    model = trained(tmp_path, "model.npz", {"fruit": "Fruit", "metal": "Metal"})
    router = Router(Config(intelligent_routing=routing(model)))
    document = {"content": "steel and copper from the furnace"}
    assert router.decide(document).route.industry == "Metal"
    assert router.refresh() is None
    os.replace(trained(tmp_path, "other.npz", {"fruit": "Obst", "metal": "Metall"}), model)
    assert "Loaded the new industry model" in str(router.refresh())
    assert router.decide(document).route.industry == "Metall"
    model.write_bytes(b"no model")
    assert "the previous one stays in use" in str(router.refresh())
    assert router.refresh() is None, "it says so once"
    assert router.decide(document).route.industry == "Metall"
    model.unlink()
    assert "the previous one stays in use" in str(router.refresh())
    assert router.decide(document).route.industry == "Metall"


@pytest.mark.slow
def test_a_running_ingest_loads_a_new_model(fleet: Fleet) -> None:
    model = trained(fleet.folder, "model.npz", {"fruit": "Fruit", "metal": "Metal"})
    parts = {"industry_classification": True, "industry_model": str(model)}
    fleet.configure(intelligent_routing=parts)
    fleet.start()
    fleet.drop("1.json", '{"content": "steel and copper"}')
    fleet.wait_finished(1)
    new = trained(fleet.folder, "new.npz", {"fruit": "Obst", "metal": "Metall"})
    config = ["--config", str(fleet.config_path)]
    assert run(app, [*config, "router", "use", str(new)]).exit_code == 0
    wait_until(lambda: "Loaded the new industry model" in fleet.log("ingest"), "the new model")
    fleet.drop("2.json", '{"content": "steel and copper"}')
    fleet.wait_finished(2)
    assert run(app, [*config, "router", "rollback"]).exit_code == 0
    wait_until(lambda: fleet.log("ingest").count("Loaded the new industry model") == 2, "the old model")
    fleet.drop("3.json", '{"content": "steel and copper"}')
    fleet.wait_finished(3)
    found = {result["source"]: result["route"]["industry"] for result in fleet.results()}
    assert found == {"1.json": "Metal", "2.json": "Metall", "3.json": "Metal"}


def test_errors_of_use_and_rollback(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text("{}")
    shown = run(app, ["--config", str(config), "router", "rollback"])
    assert (shown.exit_code, "intelligent_routing.industry_model is not set" in shown.output) == (78, True)
    model = trained(tmp_path, "model.npz", {"fruit": "Fruit", "metal": "Metal"})
    config.write_text(json.dumps({"intelligent_routing": {"industry_model": str(model)}}))
    shown = run(app, ["--config", str(config), "router", "rollback"])
    assert (shown.exit_code, "There is no previous model" in shown.output) == (1, True)
    (tmp_path / "no.npz").write_bytes(b"no")
    before = model.read_bytes()
    assert run(app, ["--config", str(config), "router", "use", str(tmp_path / "no.npz")]).exit_code == 1
    assert model.read_bytes() == before


def test_a_missing_model_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"intelligent_routing": {"industry_model": str(tmp_path / "none.npz")}}))
    with pytest.raises(ConfigError, match=r"a file that .llmctl router train. made"):
        load(path, {})


def test_a_model_is_measured(tmp_path: Path) -> None:
    model = trained(tmp_path, "model.npz", {"fruit": "Fruit", "metal": "Metal"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "apple juice", "label": "Fruit"}\n{"text": "copper alloy", "label": "Fruit"}\n')
    arguments = ["router", "eval", "--data", str(rows), "--model", str(model)]
    shown = run(app, arguments)
    assert (shown.exit_code, "accuracy 0.500" in shown.output) == (0, True), shown.output
    shown = run(app, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    scores = json.loads(shown.stdout)
    assert (scores["accuracy"], scores["labels"]["Fruit"]["rows"]) == (0.5, 2)


def test_training_lines_that_are_wrong_are_named(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "a", "label": "x"}\n{"text": 1}\n')
    shown = run(app, ["router", "train", "--data", str(data), "--out", str(tmp_path / "m.npz"), "--no-labels"])
    assert shown.exit_code == 1
    assert "2" in shown.output
    assert not (tmp_path / "m.npz").exists()
    assert run(app, ["router", "train", "--data", "none.jsonl", "--out", "m.npz"]).exit_code == 1


@pytest.mark.parametrize("command", [["use", "new.npz"], ["rollback"]], ids=["use", "rollback"])
@pytest.mark.parametrize("place", [1, 2])
def test_a_model_is_there_whenever_the_command_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], place: int
) -> None:
    """The command is killed at its first or second rename. Ingest, which needs the model to start, still finds one."""
    model = trained(tmp_path, "model.npz", {"fruit": "Fruit", "metal": "Metal"})
    (tmp_path / "model.npz.previous").write_bytes(model.read_bytes())
    (tmp_path / "new.npz").write_bytes(model.read_bytes())
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"intelligent_routing": {"industry_model": str(model)}}))
    replace, renames = os.replace, []

    def killed(source: Path, target: Path) -> None:
        renames.append(target)
        if len(renames) == place:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "replace", killed)
    run(app, ["--config", str(config), "router", *command])
    assert len(renames) == place
    load(config, {})
    assert Router(Config(intelligent_routing=routing(model))).decide({"a": "steel copper"}).route.industry == "Metal"
