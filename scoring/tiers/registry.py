"""Tier -> the code that scores it."""

from collections.abc import Mapping

from scoring.tiers.base import Tier
from scoring.tiers.cloze import Cloze
from scoring.tiers.instructions import Instructions
from scoring.tiers.perplexity import Perplexity

TIERS: Mapping[str, Tier] = {"tier2_ppl": Perplexity(), "tier3_cf": Cloze(), "tier4_sft_native": Instructions()}
