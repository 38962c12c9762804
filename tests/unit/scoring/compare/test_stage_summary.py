"""stage.json: noise, signal and what was forgotten, from published results, through the command."""

import json

import numpy as np
import pytest
from scipy import stats

from scoring.compare.stage_summary import summarise_stage
from scoring.estimators.noise import estimate_noise
from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import encode_json
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import StageRequest, read_stage_document, stage_summary_path
from support.runs.scoring_jobs import run_scoring_in_process
from support.samples.published_results import edit_tier_file, make_evaluation_ref, publish_sample_results

pytestmark = pytest.mark.scoring


def publish_run(root, steps, *, seed=1):
    """A stage whose code slice falls and whose prose slice only jumps; one task learns and one guesses."""
    draw, refs = np.random.default_rng(seed), []
    tokens = np.full(20, 100)
    documents = draw.normal(0, 3, 20)
    for index, step in enumerate(steps):
        paths = EvaluationPaths(root, f"step_{step}")
        level = {"code": 300 - 20 * index, "prose": 300.0}
        slices = {name: (tokens, mean + documents + draw.normal(0, 1)) for name, mean in level.items()}
        tasks = {
            "learns": (np.arange(200) < 80 + 5 * index + draw.integers(0, 3), None),
            "guesses": (draw.random(200) < 0.5, None),
        }
        refs.append(make_evaluation_ref(publish_sample_results(paths, slices=slices, tasks=tasks, step=step)))
    return tuple(refs)


def read_values(root, steps, tier, keys):
    section, name, metric = keys
    files = [json.loads(EvaluationPaths(root, f"step_{step}").tier_json(tier).read_text()) for step in steps]
    return [file[section][name][metric] for file in files]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    root, steps = tmp_path_factory.mktemp("results") / "stage1", list(range(100, 1100, 100))
    return root, steps, publish_run(root, steps)


def test_a_figures_noise_is_that_of_its_published_values(stage):
    root, steps, refs = stage
    document = summarise_stage(StageRequest(stage="stage1", results=str(root), evaluations=refs))
    assert document.window == tuple(steps)
    assert document.wanted == ""
    for name in ("code", "prose"):
        values = read_values(root, steps, "tier2_ppl", ("slices", name, "nll_per_token"))
        figure = document.find_noise("tier2_ppl", name, "nll_per_token")
        assert (figure.noise, figure.low, figure.high) == pytest.approx(tuple(estimate_noise(steps, values)))
        assert figure.signal == pytest.approx(max(values) - min(values))
        assert figure.snr == pytest.approx(figure.signal / figure.noise)
        assert figure.within_noise == pytest.approx(1.96 * 2**0.5 * figure.noise)
        assert figure.newest == values[-1]
    assert document.find_noise("tier2_ppl", "code", "nll_per_token").says_something is True
    assert document.find_noise("tier2_ppl", "prose", "nll_per_token").says_something is False
    assert document.find_noise("tier3_cf", "learns", "primary").says_something is True
    assert document.find_noise("tier3_cf", "guesses", "primary").says_something is False
    assert document.find_noise("tier3_cf", "guesses", "primary").at_chance is True
    assert document.find_noise("tier2_ppl", "", "nll_per_token").snr > 10


def summarise_beside(tmp_path, scored, on_disk, *, within=None, layout="{}"):
    """The summary of a stage whose checkpoints lie in a folder."""
    folder, root = tmp_path / "ckpts", tmp_path / "stage1"
    for step in on_disk:
        (folder / layout.format(step)).mkdir(parents=True)
    refs = publish_run(root, scored)
    for step in scored:
        path = str(folder / layout.format(step))
        for tier in ("tier2_ppl", "tier3_cf"):
            edit_tier_file(EvaluationPaths(root, f"step_{step}"), tier, lambda it, path=path: it["checkpoint"].update(path=path))
    return summarise_stage(StageRequest(stage="stage1", results=str(root), evaluations=refs, noise_within=within))


HUNDREDS = tuple(range(100, 1100, 100))


@pytest.mark.parametrize(
    ("scored", "on_disk", "within", "said"),
    [
        ((100, 400, 600), HUNDREDS[:6], None, "; to score what is on disk: watcher enqueue stage1 200 300 500; 2 more have"),
        ((200, 400, 1000), HUNDREDS, None, "; to score what is on disk: watcher enqueue stage1 300 500 600 700 800 900"),
        ((1000,), (*HUNDREDS[:9], 1000, 1007), None, "watcher enqueue stage1 400 500 600 700 800 900 1007"),
        (
            (900, 1000),
            HUNDREDS,
            300,
            "8 evaluations within 300 steps; to score what is on disk: watcher enqueue stage1 700 800; 4",
        ),
        ((900, 1000), HUNDREDS, 700, "watcher enqueue stage1 300 400 500 600 700 800"),
        ((900, 1000), (), None, "the noise needs 8 evaluations; 6 more have to come from other checkpoints"),  # deleted
        ((900, 1000), (900, 1000), None, "the noise needs 8 evaluations; 6 more have to come from other checkpoints"),
    ],
)
def test_too_few_evaluations_name_steps_that_are_on_disk(tmp_path, scored, on_disk, within, said):
    document = summarise_beside(tmp_path, scored, on_disk, within=within)
    assert document.window == ()
    assert said in document.wanted
    assert {figure.noise for figure in document.noise} == {None}
    enqueued = document.wanted.partition("stage1 ")[2].partition(";")[0].split()
    assert set(map(int, enqueued)) <= set(on_disk)


def test_checkpoints_of_another_layout_are_named_by_their_steps(tmp_path):
    document = summarise_beside(tmp_path, (900, 1000), HUNDREDS, layout="step_{}")
    assert document.wanted.endswith("watcher enqueue stage1 300 400 500 600 700 800")


def test_enough_evaluations_within_the_window_want_no_more(stage):
    root, _, refs = stage
    enough = summarise_stage(StageRequest(stage="stage1", results=str(root), evaluations=refs, noise_within=700))
    assert (enough.window, enough.wanted) == (tuple(range(300, 1100, 100)), "")


def test_a_figure_of_other_data_in_the_window_is_not_known(tmp_path):
    steps = list(range(100, 1000, 100))
    refs = publish_run(tmp_path / "stage1", steps)

    def other(document):
        document["slices"]["code"]["data_key"] = "other"

    edit_tier_file(EvaluationPaths(tmp_path / "stage1", "step_500"), "tier2_ppl", other)
    document = summarise_stage(StageRequest(stage="stage1", results=str(tmp_path / "stage1"), evaluations=refs))
    assert document.find_noise("tier2_ppl", "code", "nll_per_token").noise is None
    assert document.find_noise("tier2_ppl", "", "nll_per_token").noise is None
    assert document.find_noise("tier2_ppl", "prose", "nll_per_token").noise > 0


def test_bits_per_byte_that_a_step_lacks_name_the_command_that_adds_them(tmp_path):
    refs = publish_run(tmp_path / "stage1", range(100, 1000, 100))
    for step in range(100, 1000, 100):
        bits = None if step == 500 else step / 1000
        edit_tier_file(
            EvaluationPaths(tmp_path / "stage1", f"step_{step}"),
            "tier3_cf",
            lambda document, bits=bits: document["tasks"]["learns"].update(bpb=bits),
        )
    document = summarise_stage(StageRequest(stage="stage1", results=str(tmp_path / "stage1"), evaluations=refs))
    noise = document.find_noise("tier3_cf", "learns", "bpb")
    assert noise.noise is None
    assert noise.unknown == "some evaluations have no bits per byte; python -m scoring derive adds them"
    assert document.find_noise("tier3_cf", "learns", "primary").unknown == ""


def test_a_figure_that_jumps_is_not_known_and_says_why(tmp_path):
    draw, refs = np.random.default_rng(6), []
    for step in range(1, 31):
        paths = EvaluationPaths(tmp_path / "stage1", f"step_{step}")
        nll = (300 if step < 20 else 250) + draw.normal(0, 1)
        slices = {"jumps": (np.full(5, 100), np.full(5, nll)), "stays": (np.full(5, 100), np.full(5, 300 + draw.normal(0, 1)))}
        refs.append(make_evaluation_ref(publish_sample_results(paths, slices=slices, tasks={}, step=step)))
    document = summarise_stage(StageRequest(stage="stage1", results=str(tmp_path / "stage1"), evaluations=tuple(refs)))
    jumps, stays = (document.find_noise("tier2_ppl", name, "nll_per_token") for name in ("jumps", "stays"))
    assert (jumps.noise, jumps.says_something, jumps.unknown) == (None, None, "no smooth trend")
    assert (stays.noise > 0, stays.unknown) == (True, "")


def publish_end(root, step, right, nll):
    tasks = {name: (np.asarray(values), None) for name, values in right.items()}
    slices = {"web": (np.full(40, 50), np.asarray(nll))}
    return make_evaluation_ref(
        publish_sample_results(EvaluationPaths(root, f"step_{step}"), slices=slices, tasks=tasks, step=step)
    )


@pytest.fixture
def ends(tmp_path):
    draw = np.random.default_rng(5)
    known = draw.random(300) < 0.6
    lost = known & (np.arange(300) >= 80)  # all of the first eighty that it knew
    nll = draw.normal(100, 5, 40)
    before = publish_end(tmp_path / "stage1", 100, {"kept": known, "gone": known}, nll)
    after = publish_end(tmp_path / "stage2", 50, {"kept": known, "gone": lost, "new": known}, nll + 3 + draw.normal(0, 1, 40))
    return known, lost, before, after


def summarise(before, after, **more):
    return summarise_stage(StageRequest(stage="stage2", results=after.results, evaluations=(after,), earlier_ends=before, **more))


def test_what_was_forgotten_is_paired_and_named(ends):
    known, lost, before, after = ends
    document = summarise((before,), after)
    figures = {(figure.name, figure.metric): figure for figure in document.forgetting}
    assert {name for (name, _), figure in figures.items() if figure.forgotten} == {"gone", "web"}
    gone = figures["gone", "primary"]
    assert (gone.lost, gone.gained) == (int((known & ~lost).sum()), 0)
    assert gone.never_known == pytest.approx(float((~known).mean()))
    assert gone.lost_items == tuple(str(index) for index in np.flatnonzero(known & ~lost))
    assert gone.effect.p == pytest.approx(stats.binomtest(0, gone.lost).pvalue)
    assert (gone.earlier_stage, gone.earlier_directory) == ("stage1", "step_100")
    kept = figures["kept", "primary"]
    assert (kept.forgotten, kept.lost, kept.lost_items) == (False, 0, ())
    assert "new" not in {name for name, _ in figures}
    assert document.refusals == ()


def test_all_figures_stages_and_earlier_ends_are_one_family(ends):
    _, _, before, after = ends
    once = summarise((before,), after)
    tested = [figure.effect.p for figure in once.forgetting if figure.effect.p is not None]
    assert min(figure.effect.p_holm for figure in once.forgetting) == pytest.approx(min(tested) * len(tested))
    twice = summarise((before, before), after, stage_count=3)
    first = min(figure.effect.p_holm for figure in twice.forgetting)
    assert first == pytest.approx(min(min(tested) * 2 * len(tested) * 3, 1.0))


def test_equal_ends_forget_nothing_in_nineteen_of_twenty_matrices(tmp_path):
    draw, called = np.random.default_rng(6), 0
    runs = 60
    for run in range(runs):
        truth = draw.random(200)
        sides = [
            publish_end(
                tmp_path / f"{run}-stage{number}",
                100,
                {name: draw.random(200) < truth for name in ("a", "b", "c")},
                100 + draw.normal(0, 3, 40),
            )
            for number in (1, 2)
        ]
        called += any(figure.forgotten for figure in summarise((sides[0],), sides[1]).forgetting)
    assert stats.binomtest(called, runs, 0.05, alternative="greater").pvalue > 0.01


def test_the_command_writes_it_once(stage, tmp_path):
    root, _, refs = stage
    request = tmp_path / "request.json"
    request.write_bytes(encode_json(StageRequest(stage="stage1", results=str(root), evaluations=refs)))
    path = stage_summary_path(root)
    assert run_scoring_in_process(["summarise", str(request)]) == ExitCode.SCORED
    written = path.stat().st_mtime_ns, path.read_bytes()
    assert run_scoring_in_process(["summarise", str(request)]) == ExitCode.SCORED
    assert (path.stat().st_mtime_ns, path.read_bytes()) == written
    assert read_stage_document(path).request.evaluations == refs


def test_evaluations_without_scores_are_refused_by_name(stage, tmp_path):
    root, _, refs = stage
    missing = make_evaluation_ref(EvaluationPaths(tmp_path, "step_1"))
    document = summarise_stage(
        StageRequest(stage="stage1", results=str(root), evaluations=(missing, *refs), earlier_ends=(missing,))
    )
    assert [refusal.reason for refusal in document.refusals] == ["no scores"] * 2
    with pytest.raises(UserError, match="no evaluation with scores"):
        summarise_stage(StageRequest(stage="stage1", results=str(root), evaluations=(missing,)))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"request": 3}'])
def test_a_damaged_document_is_one_line(tmp_path, content):
    path = stage_summary_path(tmp_path)
    assert read_stage_document(path) is None
    path.write_text(content)
    with pytest.raises(UserError, match="no summary of a stage"):
        read_stage_document(path)
