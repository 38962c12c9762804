"""The built-in four stages at the size of a test: default.yaml and the shipped suites, over rows that lie here."""

import hashlib
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import yaml

from suites.contract.shipped_files import find_shipped_file
from suites.definitions.suite import load_suite
from support.fakes.hub_datasets import DATASET_LAYOUT, make_rows
from support.models.nanotron_fixtures import BYTE_TOKENIZER, CHECKPOINTS
from support.runs.two_stages import TwoStagesRun, copy_under_step

STAGE_STEPS = {
    "stage1": [2000, 10000, 20000, 32000, 40000, 50000],
    "stage2": [2000, 6000, 10000, 14000, 18000, 22000],
    "stage3": [2000, 4000, 6000, 8000, 10000, 12000],
    "stage4": [500, 1500, 3500, 5000],
}
CHECKPOINT_FOLDERS = {"stage4": "sft_project/ckpts/sft_stage3_smoltalk_run1"}
"""Under scratch; the others lie in ckpts/<stage>."""
PROMPT_NAMES = (
    "bullets_planets",
    "steps_two",
    "json_person",
    "keyword_forbidden",
    "no_commas",
    "harmless_knife",
    "harmless_virus",
)
NOISE_STD = 0.7
"""Of weights, in their own size: so much that models also answer differently."""
ROWS = 40
ITEMS = 24
TOKENS = 3000


class FourStagesRun(TwoStagesRun):
    """``watcher run`` by default.yaml, but for suites of the same names over local rows, the executor and the pace."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, steps=STAGE_STEPS)
        self.results = root / "evaluation_results"
        self.state = self.results / ".watcher"
        config = yaml.safe_load(find_shipped_file("watcher/config/default.yaml").read_text(encoding="utf-8"))
        del config["slurm"]
        config |= {"executor": "local", "poll": "1s", "settle": "1s", "python": sys.executable, "limits": {"max_running": 2}}
        for stage in config["stages"].values():
            stage["suites"] = [str(self.write_local_suite(name)) for name in stage["suites"]]
        self.config.write_text(yaml.safe_dump(config), encoding="utf-8")
        for name in [name for name in self.environ if name.startswith(("STAGE", "EVAL_DATA_DIR", "LIGHTEVAL_CMD"))]:
            del self.environ[name]

    def write_local_suite(self, name: str) -> Path:
        """A shipped suite under its own name, ``extends`` and all, over local rows in the schemas of its data sets."""
        path = self.root / "suites" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        suite = yaml.safe_load(find_shipped_file(f"suites/{name}.yaml").read_text(encoding="utf-8"))
        if "extends" in suite:
            suite["extends"] = str(self.write_local_suite(suite["extends"]))
        if "prompts" in suite:
            template = suite["defaults"]["chat_template"].replace("assistant\n", "assistant: ")  # else all they say is newlines
            suite["defaults"] = {"chat_template": template, "stop": [" ", "n", "d"]}
            suite["prompts"] = {prompt: {**suite["prompts"][prompt], "max_new_tokens": 12} for prompt in PROMPT_NAMES}
        else:
            sources = load_suite(name, {}).definition
            section, size = ("slices", "target_tokens") if "slices" in suite else ("tasks", "subset_size")
            suite["defaults"] = {key: value for key, value in suite.get("defaults", {}).items() if key == "text_field"}
            suite["defaults"] |= {size: TOKENS if section == "slices" else ITEMS}
            for entry, said in suite.get(section, {}).items():
                source, dataset = sources[entry], sources[entry]["hf_dataset"]
                rows = make_rows(
                    dataset, source.get("hf_config", next(iter(DATASET_LAYOUT[dataset]))), source.get("split", "train"), ROWS
                )
                file = path.with_name(f"{entry}.jsonl")
                file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                kept = {key: value for key, value in said.items() if key not in {"hf_dataset", "hf_config", "split"}}
                suite[section][entry] = {**kept, "data_files": [str(file)]}
            if section not in suite:
                del suite["defaults"]
        path.write_text(yaml.safe_dump(suite), encoding="utf-8")
        return path

    def write_checkpoint(self, stage: str, step: int, like: str = "llama_gqa_tp1/60") -> Path:
        """A real checkpoint with noise of its own in every weight, so that no two have the same scores."""
        source = self.root / "made"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(CHECKPOINTS / like, source, copy_function=shutil.copyfile)
        run = yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8"))
        run["tokenizer"]["tokenizer_name_or_path"] = str(BYTE_TOKENIZER)
        for phase in (run["tokens"], *run["data_stages"]):
            phase["sequence_length"] = 256  # as far as the model reaches: one choice of copa has 70 bytes
        (source / "config.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
        seed = int.from_bytes(hashlib.sha256(f"{stage} {step}".encode()).digest()[:8])
        draw = np.random.default_rng(seed)
        for file in sorted((source / "model").rglob("*.safetensors")):
            raw = file.read_bytes()
            start = 8 + struct.unpack("<Q", raw[:8])[0]
            weights = np.frombuffer(raw[start:], dtype="<f4")
            noisy = weights * (1 + NOISE_STD * draw.standard_normal(weights.shape))
            file.write_bytes(raw[:start] + noisy.astype("<f4").tobytes())
        folder = self.root / CHECKPOINT_FOLDERS.get(stage, f"ckpts/{stage}") / str(step)
        copy_under_step(source, folder, step)
        return folder
