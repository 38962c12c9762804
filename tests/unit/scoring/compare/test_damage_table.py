"""One damaged file or figure never costs more than its own entry, and no published document is refused by its reader."""

import errno
import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoring.compare import rows
from suites.common import documents
from suites.common.documents import read_content
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest, read_comparison_document
from suites.contract.encoding import encode_json
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import StageRequest, read_stage_document, stage_summary_path
from support.runs.scoring_jobs import run_scoring_in_process
from support.samples.published_results import edit_tier_file, make_evaluation_ref, publish_sample_results

pytestmark = pytest.mark.scoring

PROMPTS = {
    f"p{n}": ("python_code", [("python_parses", "format", n % 2 == 0), ("no_repetition", "clean", True)]) for n in range(12)
}


def publish(root, step):
    draw = np.random.default_rng(step)
    tokens = np.full(12, 50)
    slices = {name: (tokens, 150 + draw.normal(0, 1, 12)) for name in ("code", "prose")}
    tasks = {"quiz": (draw.random(40) < 0.6, None), "facts": (draw.random(40) < 0.6, ["a", "b"] * 20)}
    return publish_sample_results(EvaluationPaths(root, f"step_{step}"), slices=slices, tasks=tasks, prompts=PROMPTS, step=step)


@pytest.fixture
def sides(tmp_path):
    """The bridge, the previous step, and the candidate."""
    return publish(tmp_path / "stage1", 900), publish(tmp_path / "stage2", 100), publish(tmp_path / "stage2", 200)


def set_column(name, values, type_=None):
    """Give a column other values: ``values`` is a value of row 3, or a function of all values."""

    def edit(path):
        table = pq.read_table(path)
        place, before = table.column_names.index(name), table[name].to_pylist()
        after = values(before) if callable(values) else [*before[:3], values, *before[4:]]
        pq.write_table(table.set_column(place, name, pa.array(after, type=type_ or table.schema.field(name).type)), path)

    return edit


def drop(name):
    return lambda path: pq.write_table(pq.read_table(path).drop_columns([name]), path)


def write(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def replace_by(make):
    def edit(path):
        path.unlink()
        make(path)

    return edit


ROW_DAMAGE = [  # entry, damage, what is said
    ("code", write(lambda raw: raw[:-100]), "cannot be read"),
    ("code", write(lambda raw: raw[: len(raw) // 2] + bytes(40) + raw[len(raw) // 2 + 40 :]), "damaged rows: "),
    ("quiz", write(lambda raw: raw[::-1]), "cannot be read"),
    ("quiz", write(lambda _: b""), "cannot be read"),
    ("code", lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path), "there are none"),
    ("quiz", lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path), "there are none"),
    *(("code", drop(name), f"they have no column {name}") for name in ("kind", "index", "tokens", "nll_sum")),
    *(("quiz", drop(name), f"they have no column {name}") for name in ("index", "id", "gold", "subject", "pick_acc")),
    ("quiz", drop("pick_acc_per_char"), "they have no column pick_acc_per_char"),
    ("code", set_column("nll_sum", math.nan), "row 3 has an nll_sum that is no finite number"),
    ("code", set_column("nll_sum", math.inf), "row 3 has an nll_sum that is no finite number"),
    ("code", set_column("nll_sum", -math.inf), "row 3 has an nll_sum that is no finite number"),
    ("code", set_column("nll_sum", None), "row 3 has no nll_sum"),
    ("code", set_column("nll_sum", -7.0), "row 3 has a negative nll_sum"),
    ("code", set_column("nll_sum", 1e6), "row 3 has over 150 nats a token"),
    ("code", set_column("nll_sum", lambda values: [1e300] * len(values)), "row 0 has over 150 nats a token"),
    ("code", set_column("nll_sum", lambda values: list(map(str, values)), pa.string()), "their nll_sum is string, not number"),
    ("code", set_column("tokens", -5), "row 3 has a number of tokens that cannot be"),
    ("code", set_column("tokens", 2**62), "row 3 has a number of tokens that cannot be"),
    ("code", set_column("tokens", 51), "the documents differ in tokens"),
    ("code", set_column("tokens", lambda values: list(map(float, values)), pa.float64()), "their tokens is double, not integer"),
    ("code", set_column("bytes", -1), "row 3 has negative bytes"),
    ("code", set_column("bytes", 7), "the documents differ in bytes"),
    ("code", set_column("index", 2), "they have index 2 twice"),
    ("code", set_column("kind", None), "row 3 has no kind"),
    ("quiz", set_column("pick_acc", None), "row 3 has no pick_acc"),
    ("quiz", set_column("pick_acc", lambda values: [None] * len(values)), "row 0 has no pick_acc"),
    ("quiz", set_column("pick_acc_per_char", 5), "row 3 has a pick_acc_per_char beyond its choices"),
    ("quiz", set_column("gold", -1), "row 3 has a negative gold"),
    ("quiz", set_column("gold", None), "row 3 has no gold"),
    ("quiz", set_column("gold", 0), "the items differ in gold"),
    ("quiz", set_column("id", "other"), "the items differ in id"),
    ("facts", set_column("subject", "c"), "the items differ in subject"),
    ("quiz", set_column("bytes", [2, 3]), "the items differ in bytes"),
    ("quiz", set_column("bytes", [2, 0]), "row 3 has a wrong number of bytes"),
    ("quiz", set_column("bytes", [2]), "row 3 has unequal numbers"),
    ("quiz", set_column("ll", [-1.0, math.nan]), "row 3 has a wrong log-likelihood"),
    ("quiz", set_column("ll", [-1.0, None]), "row 3 has a wrong log-likelihood"),
    ("quiz", set_column("ll", [-1.0, 4.0]), "row 3 has a wrong log-likelihood"),
    ("quiz", set_column("ll", lambda values: [str(value) for value in values], pa.string()), "their ll is string"),
    ("quiz", set_column("ll", None), "row 3 has no log-likelihoods"),
    ("quiz", set_column("index", 2), "they have index 2 twice"),
    ("quiz", replace_by(lambda path: path.mkdir()), "not a regular file (Is a directory)"),
    ("quiz", replace_by(lambda path: path.symlink_to("gone")), "a link to a file that is gone"),
    ("quiz", replace_by(os.mkfifo), "not a regular file (Not a regular file but a pipe)"),
    ("quiz", replace_by(lambda path: path.symlink_to(path)), "not a regular file (Too many levels of symbolic links)"),
]
ALL_ZERO = [("code", set_column("tokens", lambda values: [0] * len(values)), "no row has a predicted token")]


def compare_and_summarise(sides):
    """The two documents, as their readers take them."""
    bridge, previous, candidate = map(make_evaluation_ref, sides)
    folder = sides[2].root.parent
    (folder / "compare-request.json").write_bytes(
        encode_json(CompareRequest(candidate=candidate, bridge=bridge, earlier=(previous,)))
    )
    (folder / "stage-request.json").write_bytes(
        encode_json(
            StageRequest(
                stage="stage2",
                results=candidate.results,
                evaluations=(previous, candidate),
                earlier_ends=(bridge,),
                stage_count=1,
            )
        )
    )
    assert run_scoring_in_process(["compare", str(folder / "compare-request.json")]) == ExitCode.SCORED
    assert run_scoring_in_process(["summarise", str(folder / "stage-request.json")]) == ExitCode.SCORED
    compared = read_comparison_document(sides[2].compare_json)
    return compared, read_stage_document(stage_summary_path(sides[2].root))


def list_reasons(compared, role, name):
    return [refusal.reason for refusal in compared.get_comparison(role).refusals if refusal.name == name]


def check_refused(documents, role, name, reason):
    """The entry is refused once, and all others are compared."""
    compared, summary = documents
    (said,) = list_reasons(compared, role, name)
    assert reason in said
    names = {"code", "prose", "quiz", "facts"} - {name}
    assert names <= {entry.name for entry in compared.get_comparison(role).entries}
    assert names <= {figure.name for figure in summary.noise}
    return said


@pytest.mark.parametrize("position", [0, 2], ids=["bridge", "candidate"])
@pytest.mark.parametrize(("name", "damage", "reason"), ROW_DAMAGE, ids=[reason[:40] for _, _, reason in ROW_DAMAGE])
def test_damaged_rows_cost_their_own_entry(sides, position, name, damage, reason):
    path = sides[position].items_parquet(name)
    damage(path)
    documents = compare_and_summarise(sides)
    said = check_refused(documents, "bridge", name, reason)
    assert said.count(str(path)) == ("damaged rows" in said)
    assert any(reason in refusal.reason and refusal.name == name for refusal in documents[1].refusals)
    assert bool(list_reasons(documents[0], "previous", name)) == (position == 2)
    run_derive(sides)


def run_derive(sides):
    assert run_scoring_in_process(["derive", str(sides[2].root.parent)]) in {ExitCode.SCORED, ExitCode.DATA_MISSING}


@pytest.mark.parametrize(("name", "damage", "reason"), ALL_ZERO)
def test_rows_without_tokens_on_both_sides_are_refused(sides, name, damage, reason):
    for side in sides:
        damage(side.items_parquet(name))
    check_refused(compare_and_summarise(sides), "bridge", name, reason)


ENTRY_DAMAGE = [  # tier, entry, change of the entry, what is said
    *(
        ("tier3_cf", "quiz", {"primary": value}, "at `primary`")
        for value in (None, "0.5", [1], {}, True, math.nan, math.inf, -0.1, 71.2, 10**400)
    ),
    *(("tier3_cf", "quiz", {"acc": value}, "at `acc`") for value in (None, "0.5", math.nan)),
    *(("tier3_cf", "quiz", {"bpb": value}, "at `bpb`") for value in ("0.9", [0.9], math.nan)),
    *(("tier3_cf", "quiz", {"primary_metric": value}, "at `primary_metric`") for value in (None, "", 5)),
    ("tier3_cf", "quiz", {"examples": "5"}, "at `examples`"),
    ("tier3_cf", "quiz", {"examples": 0}, "at `examples`"),
    ("tier3_cf", "quiz", {"at_chance": "no"}, "at `at_chance`"),
    *(("tier2_ppl", "code", {"nll_per_token": value}, "at `nll_per_token`") for value in (None, "1.1", math.nan, 1e9)),
    *(("tier2_ppl", "code", {"ppl": value}, "at `ppl`") for value in (None, "3", 0, -1, math.inf)),
    *(("tier2_ppl", "code", {"tokens": value}, "at `tokens`") for value in (None, 0, -3, "7", [])),
    ("tier2_ppl", "code", {"nll_sum": "1"}, "at `nll_sum`"),
    ("tier2_ppl", "code", {"documents": {}}, "at `documents`"),
]


@pytest.mark.parametrize("position", [0, 2], ids=["bridge", "candidate"])
@pytest.mark.parametrize("case", ENTRY_DAMAGE, ids=str)
def test_a_damaged_entry_is_refused_by_name(sides, position, case):
    tier, name, change, reason = case
    section = "tasks" if tier == "tier3_cf" else "slices"
    edit_tier_file(sides[position], tier, lambda document: document[section][name].update(change))
    said = check_refused(compare_and_summarise(sides), "bridge", name, reason)
    assert said.startswith(f"damaged entry: {sides[position].tier_json(tier)}: ")
    assert said.count(str(sides[position].folder)) == 1
    run_derive(sides)


@pytest.mark.parametrize("position", [0, 2], ids=["bridge", "candidate"])
@pytest.mark.parametrize(("tier", "name", "key"), [("tier3_cf", "quiz", "primary_metric"), ("tier2_ppl", "code", "tokens")])
def test_an_entry_without_a_figure_is_refused_by_name(sides, position, tier, name, key):
    section = "tasks" if tier == "tier3_cf" else "slices"
    edit_tier_file(sides[position], tier, lambda document: document[section][name].pop(key))
    check_refused(compare_and_summarise(sides), "bridge", name, f"`{key}`")
    edit_tier_file(sides[position], tier, lambda document: document[section].update({name: {}}))
    check_refused(compare_and_summarise(sides), "bridge", name, "damaged entry: ")


@pytest.mark.parametrize("name", ["items/code.parquet", "tier3_cf.json"])
def test_a_disk_that_fails_is_tried_again_and_refuses_nothing(sides, monkeypatch, name):
    def fail(path, *arguments):
        if path == sides[0].folder / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read_content(path, *arguments)

    monkeypatch.setattr(rows if name.endswith("parquet") else documents, "read_content", fail)
    bridge, _, candidate = map(make_evaluation_ref, sides)
    request = sides[2].root.parent / "request.json"
    request.write_bytes(encode_json(CompareRequest(candidate=candidate, bridge=bridge)))
    assert run_scoring_in_process(["compare", str(request)]) == ExitCode.TEMPORARY
    assert not sides[2].compare_json.exists()


def test_a_metric_that_no_row_knows_is_refused(sides):
    for side in sides:
        edit_tier_file(side, "tier3_cf", lambda document: document["tasks"]["quiz"].update(primary_metric="mine"))
    check_refused(compare_and_summarise(sides), "bridge", "quiz", "they have no column pick_mine")


PROMPT_DAMAGE = [
    {"checks": 5},
    {"checks": [5]},
    {"checks": [{"check": "a", "kind": "format"}]},
    {"checks": [{"check": "a", "kind": "format", "passed": "yes"}]},
    {"passed": None},
    {"passed": "true"},
    {"format": 1},
    {"clean": []},
    {"category": None},
]


@pytest.mark.parametrize("position", [0, 2], ids=["bridge", "candidate"])
@pytest.mark.parametrize("change", PROMPT_DAMAGE, ids=str)
def test_a_damaged_prompt_refuses_the_rates(sides, position, change):
    edit_tier_file(sides[position], "tier4_sft_native", lambda document: document["prompts"]["p3"].update(change))
    check_refused(compare_and_summarise(sides), "bridge", "all_checks_pass_rate", "damaged prompt p3: ")


@pytest.mark.parametrize("value", ["0.5", [1], math.nan, 2, True])
def test_a_damaged_rate_is_refused(sides, value):
    edit_tier_file(sides[2], "tier4_sft_native", lambda document: document["summary"].update(chat_clean_rate=value))
    check_refused(compare_and_summarise(sides), "bridge", "chat_clean_rate", "at `rate`")


@pytest.mark.parametrize("content", [b"{", b'{"name": 1}\n', b"[]\n", b"\xff"])
def test_damaged_answers_refuse_the_rates_of_other_data(sides, content):
    edit_tier_file(sides[0], "tier4_sft_native", lambda document: document.update(data_key="other"))
    sides[0].generations.write_bytes(content)
    check_refused(compare_and_summarise(sides), "bridge", "all_checks_pass_rate", "")


@pytest.mark.parametrize(("tier", "key"), [("tier2_ppl", "nll_per_token"), ("tier3_cf", "primary"), ("tier3_cf", "bpb")])
@pytest.mark.parametrize("value", ["1", [], math.nan, math.inf, True])
def test_a_damaged_total_is_left_out_of_the_noise_by_name(sides, tier, key, value):
    edit_tier_file(sides[1], tier, lambda document: document["summary"].update({key: value}))
    _, summary = compare_and_summarise(sides)
    (said,) = [refusal.reason for refusal in summary.refusals if refusal.name == tier]
    assert f"at `{key}`" in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_derive_refuses_numbers_that_json_lacks(sides, capsys, value):
    edit_tier_file(sides[2], "tier3_cf", lambda document: document["summary"].update(mine=value))
    before = sides[2].tier_json("tier3_cf").read_bytes()
    assert run_scoring_in_process(["derive", str(sides[2].root.parent)]) == ExitCode.DATA_MISSING
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{sides[2].tier_json('tier3_cf')}: nothing is derived: damaged figures (")
    assert sides[2].tier_json("tier3_cf").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "5", '{"a": 1, "a": 2}'])
def test_the_path_of_a_damaged_tier_file_is_said_once(sides, content):
    path = sides[0].tier_json("tier3_cf")
    path.write_text(content)
    compared, _ = compare_and_summarise(sides)
    reasons = [refusal.reason for refusal in compared.refusals if refusal.name == "bridge"]
    assert all(reason.count(str(path)) == 1 for reason in reasons)
    assert bool(reasons) == (content != "5")


def test_a_scorer_of_ones_own_without_sums_can_be_the_best_step(sides):
    for side in sides:
        edit_tier_file(side, "tier2_ppl", lambda document: [entry.pop("nll_sum") for entry in document["slices"].values()])
        for name in ("code", "prose"):
            side.items_parquet(name).unlink()
    compared, _ = compare_and_summarise(sides)
    assert compared.get_comparison("best").baseline.step == 100
    assert json.loads(sides[2].compare_json.read_text())["comparisons"]
