"""Names of checkpoints: which step each is, what each step is called, and what is said of names in another form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.checkpoint.layout import CheckpointLayout, guess_step, list_steps

NAMES = ("{step}", "step_{step}", "iter_{step:07d}", "checkpoint-{step}", "{step:07d}", "run 1 step {step} (bf16)", "a.{step}+b")


def list_names(folder, *names, layout="{step}"):
    for name in names:
        (folder / name).mkdir()
    return list_steps(folder, CheckpointLayout(layout))


@given(st.sampled_from(NAMES), st.integers(0, 10**18 - 1))
def test_a_steps_name_is_read_back_as_that_step(name, step):
    layout = CheckpointLayout(name)
    assert layout.describe_mistake() == ""
    assert layout.parse_name(layout.format_name(step)) == step


@given(st.sampled_from(NAMES), st.from_regex(r"[a-z _.+()-]{0,8}0{0,8}[0-9]{0,20}[a-z _.+()-]{0,8}", fullmatch=True))
def test_no_two_names_are_one_step(name, text):
    step = CheckpointLayout(name).parse_name(text)
    assert step is None or CheckpointLayout(name).format_name(step) == text


@pytest.mark.parametrize(
    ("layout", "name", "step"),
    [
        ("{step}", "2000", 2000),
        ("{step}", "0", 0),
        ("{step}", "0002000", None),
        ("{step}", "٣", None),
        ("{step}", "2000\n", None),
        ("{step}", "step_2000", None),
        ("{step:07d}", "0002000", 2000),
        ("{step:07d}", "12000000", 12_000_000),
        ("{step:07d}", "2000", None),
        ("{step:07d}", "00012000000", None),
        ("step_{step}", "step_02000", None),
        ("step_{step}", "xstep_2000", None),
        ("a.{step}", "ab2000", None),
        ("{step}", "1" * 19, None),
    ],
)
def test_a_name_is_a_step_only_if_the_step_has_that_name(layout, name, step):
    assert CheckpointLayout(layout).parse_name(name) == step


@pytest.mark.parametrize(
    "name",
    ["", "step", "{step}{step}", "{step}/{step}", "{step}/model", "../{step}", "{step.__class__}", "{step!r}", "{step:7d}",
     "{{step}}", "{Step}", "{step:019d}", ".{step}", "a\n{step}", "a\0{step}", "{0}{step}"],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(name):
    assert CheckpointLayout(name).describe_mistake().startswith(repr(name))


@pytest.mark.parametrize(
    ("name", "step"),
    [("2000", 2000), ("0002000", 2000), ("step_2000", 2000), ("iter_0002000", 2000), ("checkpoint-2000", 2000),
     ("global_step2000", 2000), ("Step 2000", 2000), ("run2_step_2000", 2000), ("epoch=3-step=200", 200), ("-5", None),
     ("v2", None), ("final", None), ("2000.old", None), ("wandb-20240101", None), ("", None)],
)  # fmt: skip
def test_a_folder_outside_every_stage_says_its_step_in_any_common_form(name, step):
    assert guess_step(name) == step


def test_links_count_and_so_does_what_is_no_folder_for_its_inspection_to_name_it(tmp_path):
    list_names(tmp_path, "100", "20", "0", "-5", "1_000", "latest", "٣")
    (tmp_path / "40").write_text("a file")
    (tmp_path / "60").symlink_to(tmp_path / "20", target_is_directory=True)
    (tmp_path / "80").symlink_to(tmp_path / "nowhere")
    assert list(list_steps(tmp_path, CheckpointLayout()).steps) == [0, 20, 40, 60, 80, 100]
    with pytest.raises(FileNotFoundError):
        list_steps(tmp_path / "nothing", CheckpointLayout())
    with pytest.raises(OSError, match="Not a directory"):
        list_steps(tmp_path / "40", CheckpointLayout())


def test_a_link_to_itself_is_listed_for_its_inspection_to_name_it(tmp_path):
    (tmp_path / "200").symlink_to(tmp_path / "200")
    assert list(list_names(tmp_path, "100").steps) == [100, 200]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["0002000", "0010000"], "{step:07d}"),
        (["step_2000"], "step_{step}"),
        (["iter_0002000", "iter_10000000"], "iter_{step:07d}"),
        (["checkpoint-500", "checkpoint-1000"], "checkpoint-{step}"),
        (["global_step500", "logs1"], "global_step{step}"),
        (["005", "010", "100"], "{step:03d}"),
        (["100", "step_200"], "step_{step}"),
        (["epoch=3-step=200", "epoch=3-step=400"], "epoch=3-step={step}"),
        (["tp2_step60"], "tp2_step{step}"),
        (["tp1_step60", "tp2_step60", "tp2_step120"], "tp2_step{step}"),
    ],
)
def test_names_in_another_form_are_said_with_the_pattern_that_takes_them(names, pattern, tmp_path):
    said = list_names(tmp_path, *names).unmatched
    assert said.endswith(f"write layout: {{name: {pattern!r}}} in the stage to have them scored")
    taken = list_steps(tmp_path, CheckpointLayout(pattern))
    assert [path.name for path in taken.steps.values()] == [
        name for name in names if CheckpointLayout(pattern).parse_name(name) is not None
    ]


@pytest.mark.parametrize(
    "names", [[], ["final", "tmp"], ["v1", "v2"], ["2024-01-02", "wandb-3"], ["100", "100.old"], [".step_2000"]]
)
def test_other_folders_are_not_talked_about(names, tmp_path):
    assert list_names(tmp_path, *names).unmatched == ""


def test_a_number_in_any_name_is_a_step_where_a_checkpoint_lies_in_the_folder(tmp_path):
    assert list_names(tmp_path, "step_10_of_50", "step_20_of_50").unmatched == ""
    for name in ("step_10_of_50", "step_20_of_50"):
        (tmp_path / name / "config.yaml").write_text("{}")
    said = list_steps(tmp_path, CheckpointLayout()).unmatched
    assert said.startswith("step_10_of_50, step_20_of_50 look like steps, but layout.name is '{step}'")
    assert "'step_{step}_of_50'" in said
