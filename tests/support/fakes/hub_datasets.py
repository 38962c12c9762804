"""Every data set that the suites name, with a few hundred made-up rows in its own schema and file layout. No benchmark items."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from support.fakes.hub import FakeHub
from support.fakes.hub_rows import (
    SentenceGenerator,
    code_reasoning,
    codeparrot,
    copa,
    fineweb,
    hellaswag,
    make_labelled_row,
    make_statement_row,
    math_instruct,
    math_reasoning,
    mmlu,
    sciq,
    siqa,
    stackv2,
    web,
    wikitext,
    winogrande,
)

DATASET_LAYOUT = {  # id -> config -> split -> (file, rows); the first config without a name is datasets' "default"
    "allenai/c4": {
        "en": {
            "train": (
                "en/c4-train.00000-of-01024.json.gz",
                lambda of, n: {"text": of.make_text(), "timestamp": "2019-04-25T12:57:54Z", "url": f"u{n}"},
            ),
            "validation": (
                "en/c4-validation.00000-of-00008.json.gz",
                lambda of, n: {"text": of.make_text(), "timestamp": "2019-04-25T12:57:54Z", "url": f"u{n}"},
            ),
        }
    },
    "codeparrot/codeparrot-clean": {"": {"train": ("file-000000000001.json.gz", codeparrot)}},
    "Salesforce/wikitext": {
        "wikitext-103-raw-v1": {"train": ("wikitext-103-raw-v1/train-00000-of-00002.parquet", wikitext)},
        "wikitext-2-raw-v1": {"train": ("wikitext-2-raw-v1/train-00000-of-00001.parquet", wikitext)},
    },
    "HuggingFaceTB/finemath": {
        name: {"train": (f"{name}/train-00000-of-00128.parquet", web)}
        for name in ("finemath-3plus", "finemath-4plus", "infiwebmath-3plus", "infiwebmath-4plus")
    },
    "HuggingFaceFW/fineweb-edu": {
        "default": {"train": ("data/CC-MAIN-2024-10/train-00000-of-00020.parquet", fineweb)},
        "sample-10BT": {"train": ("sample/10BT/000_00000.parquet", fineweb)},
    },
    "wikimedia/wikipedia": {
        f"20231101.{language}": {
            "train": (
                f"20231101.{language}/train-00000-of-00041.parquet",
                lambda of, n: {"id": str(n), "url": f"u{n}", "title": of.make_text_of_length(1, 3), "text": of.make_text()},
            )
        }
        for language in ("en", "simple")
    },
    "common-pile/stackv2_edu_filtered": {"": {"train": ("stack-edu-0000.json.gz", stackv2)}},
    "bigcode/starcoder2data-extras": {
        "lhq": {"train": ("lhq/train-00000-of-00001.parquet", lambda of, _: {"content": of.make_text()})},
        "kaggle": {
            "train": ("kaggle/train-00000-of-00003.parquet", lambda of, n: {"content": of.make_text(), "file_id": str(n)})
        },
    },
    "nvidia/OpenMathReasoning": {
        "default": {
            "cot": ("data/cot-00000-of-00144.parquet", math_reasoning),
            "tir": ("data/tir-00000-of-00072.parquet", math_reasoning),
        }
    },
    "nvidia/OpenMathInstruct-1": {
        "": {"train": ("train.jsonl", math_instruct), "validation": ("validation.jsonl", math_instruct)}
    },
    "nvidia/OpenCodeReasoning": {
        name: {name: (f"{name}/train-00000-of-00030.parquet", code_reasoning)} for name in ("split_0", "split_1")
    },
    "Rowan/hellaswag": {"": {"validation": ("data/validation-00000-of-00001.parquet", hellaswag)}},
    "baber/piqa": {
        "": {
            "validation": (
                "data/validation-00000-of-00001.parquet",
                lambda of, n: {
                    "goal": of.make_text_of_length(3, 7),
                    "sol1": of.make_text_of_length(3, 6),
                    "sol2": of.make_text_of_length(3, 6),
                    "label": n % 2,
                },
            )
        }
    },
    "allenai/winogrande": {
        name: {"validation": (f"{name}/validation-00000-of-00001.parquet", winogrande)}
        for name in ("winogrande_xl", "winogrande_s")
    },
    "allenai/ai2_arc": {
        name: {"test": (f"{name}/test-00000-of-00001.parquet", make_labelled_row("question"))}
        for name in ("ARC-Easy", "ARC-Challenge")
    },
    "allenai/openbookqa": {"main": {"test": ("main/test-00000-of-00001.parquet", make_labelled_row("question_stem"))}},
    "tau/commonsense_qa": {
        "": {
            "validation": (
                "data/validation-00000-of-00001.parquet",
                make_labelled_row("question", question_concept=make_statement_row("of")),
            )
        }
    },
    "lighteval/siqa": {"": {"validation": ("data/validation-00000-of-00001.parquet", siqa)}},
    "allenai/sciq": {"": {"validation": ("data/validation-00000-of-00001.parquet", sciq)}},
    "allenai/qasc": {
        "": {
            "validation": (
                "data/validation-00000-of-00001.parquet",
                make_labelled_row(
                    "question",
                    fact1=make_statement_row("secret"),
                    fact2=make_statement_row("secret"),
                    combinedfact=make_statement_row("secret"),
                ),
            )
        }
    },
    "aps/super_glue": {"copa": {"validation": ("copa/validation-00000-of-00001.parquet", copa)}},
    "cais/mmlu": {
        "all": {"test": ("all/test-00000-of-00001.parquet", mmlu)},
        "anatomy": {"test": ("anatomy/test-00000-of-00001.parquet", mmlu)},
    },
}


def make_rows(name: str, config: str, split: str, count: int = 300) -> list[dict]:
    """The rows that are served for one split."""
    make, of = DATASET_LAYOUT[name][config][split][1], SentenceGenerator(f"{name} {config} {split}")
    return [make(of, n) for n in range(count)]


def encode_rows(path: str, rows: list[dict]) -> bytes:
    """Rows as the file that its name says it is."""
    if path.endswith(".parquet"):
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=100)
        return stream.getvalue()
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(raw, mtime=0) if path.endswith(".gz") else raw


def make_dataset_card(name: str) -> bytes:
    """README.md with the configs, as the Hub has it; none where the files' names say enough."""
    configs = {config: splits for config, splits in DATASET_LAYOUT[name].items() if config}
    if not configs:
        return b"# A data set\n"
    listed = [
        {"config_name": config, "data_files": [{"split": split, "path": path} for split, (path, _) in splits.items()]}
        for config, splits in configs.items()
    ]
    return f"---\nconfigs: {json.dumps(listed)}\n---\n# A data set\n".encode()


def make_dataset_files(name: str, count: int = 300) -> dict[str, bytes]:
    """All files of one repository."""
    files = {"README.md": make_dataset_card(name), ".gitattributes": b"*.parquet filter=lfs\n"}
    for config, splits in DATASET_LAYOUT[name].items():
        for split, (path, _) in splits.items():
            files[path] = encode_rows(path, make_rows(name, config, split, count))
    return files


def make_full_hub(count: int = 300) -> FakeHub:
    """A hub with every data set of the suites."""
    hub = FakeHub()
    for name in DATASET_LAYOUT:
        hub.push_commit(name, make_dataset_files(name, count))
    return hub


def make_texts(seed: str, count: int = 200) -> list[dict]:
    """Rows of one column, text."""
    sentences = SentenceGenerator(seed)
    return [{"text": sentences.make_text()} for _ in range(count)]


def make_one_file(rows, path: str = "data/train-00000-of-00001.parquet") -> dict[str, bytes]:
    """The files of a data set whose rows lie in one."""
    return {"README.md": b"# A data set\n", path: encode_rows(path, rows)}
