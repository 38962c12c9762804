"""`watcher init` with its flags: what the files say, where they lie, and what comes next."""

import sys

import pytest

from support.runs.watcher_commands import make_config_folder_fixture, run_watcher
from watcher.config.loader import check_config

config_folder = make_config_folder_fixture("")


@pytest.fixture
def home(config_folder, monkeypatch):
    (config_folder / "watcher.yaml").unlink()
    monkeypatch.setenv("HOME", str(config_folder / "home"))
    monkeypatch.setenv("SCRATCH", str(config_folder))
    for step in ("step_100", "step_200"):
        (config_folder / "run" / step).mkdir(parents=True)
    return config_folder


FLAGS = ("--account", "lab-${x}", "--partition", "gpu", "--python", "env/bin/python", "--tokenizer", "acme/tok")


@pytest.mark.parametrize(
    ("which", "stages", "tiers"),
    [((), 4, 2), (("--four-stages",), 4, 2), (("--single-stage", "run"), 1, 2), (("--sft", "run"), 1, 3)],
)
def test_every_flag_is_what_the_config_means(home, which, stages, tiers):
    output = run_watcher("init", *which, *FLAGS).stdout
    config = check_config(home / "watcher.yaml", {"SCRATCH": str(home)})
    assert (config.slurm.account, config.slurm.partition) == ("lab-${x}", "gpu")
    assert (config.python, config.executor) == (f"{home}/env/bin/python", "slurm")
    assert [stage.tokenizer for stage in config.stages.values()] == ["acme/tok"] * stages
    assert len(next(iter(config.stages.values())).suites) == tiers
    if stages == 1:
        assert config.stages["run"].layout.name == "step_{step}"
    assert "First set" not in output
    assert [line.strip() for line in output.splitlines() if line.startswith("  watcher ")] == [
        "watcher doctor",
        "watcher prefill",
        "watcher run",
    ]


def test_what_is_left_to_edit_is_said_and_an_own_torch_is_used(home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    output = run_watcher("init", "other").stdout
    assert f"First set in {home}/other/watcher.yaml: python (one with torch), slurm: account, slurm: partition\n" in output
    assert f"  watcher doctor --config {home}/other/watcher.yaml\n" in output
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: "torch")
    output = run_watcher("init", "--executor", "local").stdout
    assert f"Jobs run {sys.executable}, which has torch" in output
    assert "First set" not in output
    config = check_config(home / "watcher.yaml", {"SCRATCH": str(home)})
    assert (config.executor, config.python) == ("local", sys.executable)


def test_systemd_s_files_lie_where_the_units_look(home):
    output = run_watcher("init", "--systemd", "--single-stage", "run", *FLAGS).stdout
    units = home / "home/.config/systemd/user"
    assert sorted(path.name for path in units.iterdir()) == ["watcher-once.service", "watcher-once.timer", "watcher.service"]
    environment = home / "home/.config/checkpoint-watcher/watcher.env"
    assert f"WATCHER_CONFIG={home}/watcher.yaml\n" in environment.read_text()
    assert "%h/.config/checkpoint-watcher/watcher.env" in (units / "watcher.service").read_text()
    assert "  systemctl --user daemon-reload && systemctl --user enable --now watcher\n" in output
    # Units of before stay, and nothing at all is written beside another watcher.env.
    environment.unlink()
    assert f"Kept {units}/watcher.service, which is the same" in run_watcher("init", "second", "--systemd").stdout
    assert f"{environment}: exists, and init overwrites nothing" in run_watcher("init", "third", "--systemd", exit_code=2).stderr
    assert not (home / "third").exists()


def test_print_writes_nothing(home):
    before = sorted(home.rglob("*"))
    output = run_watcher("init", "--print", "--systemd", "--sft", "run").stdout
    assert sorted(home.rglob("*")) == before
    assert [line.rpartition("/")[2] for line in output.splitlines() if line.startswith("# ---- ")] == [
        *("watcher.yaml", "watcher.env", "watcher.service", "watcher-once.service", "watcher-once.timer")
    ]


@pytest.mark.usefixtures("home")
def test_two_kinds_of_config_at_once_are_refused():
    assert "options exclude each other" in run_watcher("init", "--sft", "run", "--four-stages", exit_code=2).stderr


def test_the_unit_finds_a_command_that_no_path_has(home, monkeypatch):
    (home / "bin").mkdir()
    (home / "bin" / "watcher").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert f"PATH={home}/bin:/nowhere\n" in run_watcher("init", "--print").stdout
    monkeypatch.setenv("PATH", f"/nowhere:{home}/bin")
    assert f"PATH=/nowhere:{home}/bin\n" in run_watcher("init", "--print").stdout
