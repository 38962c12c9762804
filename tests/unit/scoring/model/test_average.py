"""An average that is made while loading has the bits of one that was made beforehand with numpy, and saved."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from scoring.model import tensor_reader
from scoring.model.loader import load_averaged_lm, load_causal_lm, open_members
from scoring.model.open_checkpoint import CheckpointSource, open_expected_checkpoint, refuse_other_configs
from scoring.model.transformers_loader import load_transformers_model
from suites.checkpoint.completeness import compute_fingerprint
from suites.common.errors import ExitCode, UserError
from suites.contract.averages import AverageMember, decay_weights, normalize_weights
from support.models.hf_models import make_hf_model, save_hf_model
from support.models.moe import convert_moe, make_qwen2_moe
from support.models.nanotron_checkpoint import list_tensor_shapes, make_tiny_checkpoint_arguments, write_checkpoint
from support.models.transformers_parity import compute_logits

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

STEPS = (10, 20, 30, 40)
SIZES = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}


def draw_tensors(shapes, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def average_with_numpy(members, weights):
    """The mean in float64, each tensor saved in the type of the last member."""
    return {
        name: torch.from_numpy(
            sum(
                weight * np.asarray(tensors[name].double()) for weight, tensors in zip(weights, members, strict=True)
            )  # in the members' order
        ).to(last.dtype)
        for name, last in members[-1].items()
    }


def write_members(base, members, *, topologies=((1, 1),) * 4, **model_config):
    return [
        write_checkpoint(
            base / str(step),
            **{**make_tiny_checkpoint_arguments(step, model_config={**SIZES, **model_config}), "tensors": tensors},
            tp=tp,
            pp=pp,
        )
        for step, tensors, (tp, pp) in zip(STEPS, members, topologies, strict=False)
    ]


def list_members(folders, weights):
    return [
        AverageMember(step=int(folder.name), weight=weight, checkpoint=str(folder), fingerprint=compute_fingerprint(folder))
        for folder, weight in zip(folders, weights, strict=True)
    ]


def assert_same_bits(ours, theirs):
    parameters, expected = dict(ours.body.named_parameters()), dict(theirs.body.named_parameters())
    assert parameters.keys() == expected.keys()
    assert all(torch.equal(parameters[name], expected[name]) for name in expected)
    assert torch.equal(ours.head, theirs.head)


WEIGHTS = {
    "uniform": normalize_weights([1] * 4),
    "given": normalize_weights([1, 2, 3, 7]),
    "ema": decay_weights(4, 0.9),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("how", WEIGHTS)
def test_the_mean_has_the_bits_of_a_saved_one(how, tied, dtype, tmp_path):
    config = {"tie_word_embeddings": tied}
    shapes = list_tensor_shapes(make_tiny_checkpoint_arguments(1, model_config={**SIZES, **config})["model_config"])
    members = [draw_tensors(shapes, seed, dtype) for seed in STEPS]
    folders = write_members(tmp_path, members, topologies=((1, 1), (2, 2), (1, 2), (2, 1)), **config)
    (saved,) = write_members(tmp_path / "saved", [average_with_numpy(members, WEIGHTS[how])], **config)
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    ours = load_averaged_lm(list_members(folders, WEIGHTS[how]), device="cpu")
    assert_same_bits(ours, load_causal_lm(saved, device="cpu"))
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == before
    assert [(member["tp"], member["pp"]) for member in ours.description["members"]] == [(1, 1), (2, 2), (1, 2), (2, 1)]


def test_a_mixture_of_experts_is_averaged_expert_by_expert(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256}
    theirs = make_qwen2_moe({**sizes, "num_hidden_layers": 2})
    moe, tensors = convert_moe(theirs)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    config = {**sizes, "is_llama_config": False, "is_qwen2_config": True, "attention_bias": True, "moe_config": moe}
    members = [draw_tensors(shapes, seed) for seed in STEPS]
    folders = write_members(tmp_path, members, topologies=((1, 1), (2, 1), (1, 2), (2, 2)), **config)
    (saved,) = write_members(tmp_path / "saved", [average_with_numpy(members, WEIGHTS["given"])], **config)
    ours = load_averaged_lm(list_members(folders, WEIGHTS["given"]), device="cpu")
    assert ours.description["architecture"] == "qwen2 with experts"
    assert_same_bits(ours, load_causal_lm(saved, device="cpu"))


@pytest.fixture
def folders(tmp_path):
    shapes = list_tensor_shapes(make_tiny_checkpoint_arguments(1, model_config=SIZES)["model_config"])
    return write_members(tmp_path, [draw_tensors(shapes, seed) for seed in STEPS])


def find_problem(members, code):
    with pytest.raises(UserError) as caught:
        load_averaged_lm(members, device="cpu")
    assert caught.value.code is code
    return f"{caught.value.location}: {caught.value.message}"


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"vocab_size": 260}, "vocab is 260 and 256"),
        ({"rope_theta": 5e5}, "rope_theta is 500000.0 and 10000.0"),
        ({"num_hidden_layers": 1}, "layers is 1 and 2"),
        ({"tie_word_embeddings": True}, "tied is True and False"),
    ],
)
def test_a_member_of_another_shape_is_refused_by_name(changed, difference, folders):
    config = {**SIZES, **changed}
    shapes = list_tensor_shapes(make_tiny_checkpoint_arguments(1, model_config=config)["model_config"])
    described = make_tiny_checkpoint_arguments(20, model_config=config)
    for file in folders[1].rglob("*.safetensors"):
        file.unlink()
    write_checkpoint(folders[1], **{**described, "tensors": draw_tensors(shapes, 1)})
    said = find_problem(list_members(folders, WEIGHTS["uniform"]), ExitCode.CANNOT_SCORE)
    assert said == f"{folders[1]}: cannot be averaged with 40: {difference}"


def test_the_member_with_a_nan_is_named(folders):
    described = make_tiny_checkpoint_arguments(30, model_config=SIZES)
    tensors = draw_tensors({name: raw.shape for name, raw in described["tensors"].items()}, 1)
    tensors["model.norm.weight"][3] = float("nan")
    write_checkpoint(folders[2], **{**described, "tensors": tensors})
    said = find_problem(list_members(folders, WEIGHTS["uniform"]), ExitCode.CANNOT_SCORE)
    assert said.startswith(f"{folders[2]}: ")
    assert "has values that are not finite" in said


@pytest.mark.parametrize("position", [0, 2, 3])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_member_that_was_rewritten_is_never_mixed_in(when, position, folders, monkeypatch):
    members = list_members(folders, WEIGHTS["uniform"])
    folder, really_read, count = folders[position], tensor_reader._read_into, []

    def rewrite():
        write_checkpoint(folder, **make_tiny_checkpoint_arguments(int(folder.name), 99, model_config=SIZES))

    def read_meanwhile(*arguments):
        count.append(1)
        if len(count) == 5:
            rewrite()
        really_read(*arguments)

    if when == "before":
        rewrite()
    else:
        monkeypatch.setattr(tensor_reader, "_read_into", read_meanwhile)
    assert find_problem(members, ExitCode.CHANGED).startswith(f"{folder}: ")


def test_the_pinned_copy_of_a_deleted_member_is_read(folders, tmp_path):
    members = list_members(folders, WEIGHTS["uniform"])
    expected = load_averaged_lm(members, device="cpu")
    (tmp_path / "pins").mkdir()
    pinned = folders[0].rename(tmp_path / "pins" / folders[0].name)
    members[0] = msgspec.structs.replace(members[0], pinned=str(pinned))
    assert_same_bits(load_averaged_lm(members, device="cpu"), expected)


def test_hugging_face_checkpoints_are_averaged_too(tmp_path):
    models = [make_hf_model("llama") for _ in range(3)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter)
    folders = [save_hf_model(model, tmp_path / f"checkpoint-{step}") for model, step in zip(models, STEPS, strict=False)]
    expected = average_with_numpy([dict(model.state_dict()) for model in models], normalize_weights([1, 1, 2]))
    models[-1].load_state_dict(expected)
    saved = save_hf_model(models[-1], tmp_path / "saved" / "checkpoint-40")
    members = [
        AverageMember(step=step, weight=weight, checkpoint=str(folder), fingerprint=compute_fingerprint(folder))
        for folder, weight, step in zip(folders, normalize_weights([1, 1, 2]), STEPS, strict=False)
    ]
    assert_same_bits(load_averaged_lm(members, device="cpu"), load_causal_lm(saved, device="cpu"))


def test_transformers_own_models_are_averaged_too(tmp_path):
    models = [make_hf_model("gpt2") for _ in range(2)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter)
    folders = [save_hf_model(model, tmp_path / f"checkpoint-{step}") for model, step in zip(models, STEPS, strict=False)]
    models[1].load_state_dict(average_with_numpy([dict(model.state_dict()) for model in models], normalize_weights([1, 3])))
    saved = save_hf_model(models[1], tmp_path / "saved" / "checkpoint-20")
    members = [
        AverageMember(step=step, weight=weight, checkpoint=str(folder), fingerprint=compute_fingerprint(folder))
        for folder, weight, step in zip(folders, normalize_weights([1, 3]), STEPS, strict=False)
    ]
    how = {"device": torch.device("cpu"), "dtype": torch.float32, "padded_vocab": "in_softmax"}
    source = CheckpointSource(saved, open_expected_checkpoint(saved, None, as_stored=True))
    ours, theirs = (load_transformers_model(sources, **how) for sources in (open_members(members, as_stored=True), (source,)))
    assert torch.equal(compute_logits(ours), compute_logits(theirs))


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({"rope_parameters": {"rope_theta": 777.0, "factor": 2}}, "rope_parameters.rope_theta is 777.0 and 10000.0"),
        ({"text_config": {"rms_norm_eps": 0.5}}, "text_config.rms_norm_eps is 0.5 and 1e-06"),
        ({"layer_types": ["sliding_attention"]}, "layer_types is ['sliding_attention'] and ['full_attention']"),
        ({"logit_scale": 0.3}, "logit_scale is 0.3 and None"),
        ({"transformers_version": "4.1", "_name_or_path": "y", "torch_dtype": "float16", "use_cache": False}, ""),
        ({"text_config": {"dtype": "float16", "rms_norm_eps": 1e-6}, "attention_dropout": 0.1, "resid_pdrop": 0.1}, ""),
        ({"id2label": {"0": "a"}, "eos_token_id": 7, "sliding_window": None, "output_router_logits": True}, ""),
    ],
)
def test_members_must_have_one_config_but_for_keys_that_change_no_number(config, difference):
    last = {
        "rope_parameters": {"rope_theta": 10000.0, "factor": 2},
        "text_config": {"rms_norm_eps": 1e-6},
        "layer_types": ["full_attention"],
        "use_cache": True,
    }
    sources = [CheckpointSource(Path(name), None) for name in ("10", "20", "30")]
    if difference:
        with pytest.raises(UserError) as caught:
            refuse_other_configs(sources, [last, {**last, **config}, last])
        assert caught.value.message == f"cannot be averaged with 30: {difference}"
        assert (caught.value.location, caught.value.code) == ("20", ExitCode.CANNOT_SCORE)
    else:
        refuse_other_configs(sources, [last, {**last, **config}, last])


def test_members_that_only_transformers_computes_are_compared_by_its_configs(tmp_path):
    """Defaults and older keys of config.json make no difference; another rope does, also where this decoder knows the model."""
    folders = [save_hf_model(make_hf_model("llama", head_dim=8), tmp_path / f"checkpoint-{step}") for step in STEPS[:2]]
    document = json.loads((folders[0] / "config.json").read_text())
    how = {"device": torch.device("cpu"), "dtype": torch.float32, "padded_vocab": "in_softmax"}

    def load_with(config):
        (folders[0] / "config.json").write_text(json.dumps(config))
        return load_transformers_model(open_members(list_hf_members(folders), as_stored=True), **how)

    del document["rope_parameters"], document["rms_norm_eps"]
    assert load_with({**document, "rope_theta": 10000.0}).description["files"] == 2
    with pytest.raises(
        UserError, match=r"checkpoint-10: cannot be averaged with checkpoint-20: rope_parameters.rope_theta is 777"
    ):
        load_with({**document, "rope_theta": 777.0})


def list_hf_members(folders):
    return [
        AverageMember(step=step, weight=1 / len(folders), checkpoint=str(folder), fingerprint=compute_fingerprint(folder))
        for folder, step in zip(folders, STEPS, strict=False)
    ]


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"attention_bias": False, "mlp_bias": False}, "lacks model.layers.0.mlp.down_proj.bias and 27 more"),
        ({"attention_bias": True, "mlp_bias": False}, "lacks model.layers.0.mlp.down_proj.bias and 11 more"),
        ({"tie_word_embeddings": True}, "tied is True and False"),
        ({"num_key_value_heads": 4}, "kv_heads is 4 and 2"),
    ],
)
def test_members_with_other_tensors_are_refused_in_one_short_line(changed, difference, tmp_path):
    made = [make_hf_model("llama, biases", **each) for each in (changed, {})]
    folders = [save_hf_model(model, tmp_path / f"checkpoint-{step}") for model, step in zip(made, STEPS, strict=False)]
    for members, first in ((folders, True), (folders[::-1], False)):
        with pytest.raises(UserError) as caught:
            open_members(list_hf_members(members), as_stored=True)
        if first:
            assert caught.value.message == f"cannot be averaged with checkpoint-20: {difference}"
        assert len(str(caught.value)) < 250 + len(str(tmp_path))
