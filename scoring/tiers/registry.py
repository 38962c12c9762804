"""The tiers that are scored here, by name; and tiers 2 and 3, whose work is an entry of the data cache."""

from collections.abc import Mapping

from scoring.tiers.base import Tier
from scoring.tiers.cloze import Cloze
from scoring.tiers.instructions import Instructions
from scoring.tiers.perplexity import Perplexity

TIERS: Mapping[str, Tier] = {"tier2_ppl": Perplexity(), "tier3_cf": Cloze(), "tier4_sft_native": Instructions()}
