"""Damaged data files of every kind: an entry of the cache, or one line with the file and a code that is not a bug."""

from collections import Counter

import pytest

from scoring.data.cache import ensure_entry
from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from support.datasets.damaged_files import DAMAGES, write_damaged_file
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = pytest.mark.scoring

FILES_OF_DATA = {ExitCode.CANNOT_SCORE, ExitCode.DATA_MISSING, ExitCode.TEMPORARY}


def find_fault(file, error) -> str | None:
    """What is wrong with the way in which a file is refused; None if nothing is."""
    if not isinstance(error, UserError):
        return f"not refused, but {error!r}"
    said = str(error)
    faults = {
        f"the code is {error.code.name}": error.code not in FILES_OF_DATA,
        "the file is not named": str(file.path) not in said,
        "it is not one printable line": not said.isprintable(),
        "it is long": len(said) > 600,
    }
    return next((f"{fault}: {said!r}" for fault, is_so in faults.items() if is_so), None)


def damage_files(folder, seeds):
    """(damage, outcome) -> how often, over the files of those seeds."""
    data = DataPaths(folder / "cache")
    tokenizer = resolve_tokenizer(str(BYTE_TOKENIZER), data)
    outcomes, faults = Counter(), {}
    for seed in seeds:
        file, outcome = write_damaged_file(folder, seed), "SCORED"
        try:
            assert ensure_entry(file.tier, f"s{seed}", file.definition, tokenizer=tokenizer, data=data, offline=True).data_key
        except Exception as error:  # noqa: BLE001  a bug is an outcome, too
            outcome = error.code.name if isinstance(error, UserError) else "BUG"
            outcome = "NO_FORMAT" if "is no format of data files" in str(error) else outcome
            if fault := find_fault(file, error):
                faults[seed] = (file.damage, fault)
        outcomes[file.damage, outcome] += 1
        file.path.unlink()
    assert not faults
    return outcomes


def test_no_damage_of_a_data_file_is_taken_for_a_bug(tmp_path):
    outcomes = damage_files(tmp_path, range(300))
    assert {damage for damage, _ in outcomes} == set(DAMAGES)
    assert outcomes["none", "SCORED"] > 5
    assert outcomes["none", "NO_FORMAT"] > 0
    assert outcomes["none", "CANNOT_SCORE"] + outcomes["none", "DATA_MISSING"] <= outcomes["none", "SCORED"] // 2


@pytest.mark.slow
def test_nor_is_any_of_six_thousand(tmp_path):
    outcomes = damage_files(tmp_path, range(1000, 7000))
    print(*sorted(outcomes.items()), sep="\n")
    assert outcomes.total() == 6000
