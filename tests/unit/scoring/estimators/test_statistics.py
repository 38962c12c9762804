"""Corrections of several p values, against statsmodels'."""

import warnings

import numpy as np
import pytest

from scoring.estimators.statistics import adjust_p_values_holm

pytestmark = pytest.mark.scoring

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    multitest = pytest.importorskip("statsmodels.stats.multitest")


@pytest.mark.parametrize("count", [1, 2, 21])
def test_holms_correction_is_statsmodels(count):
    values = [*(np.random.default_rng(count).uniform(0, 0.1, count) ** 2), 0.5, 0.5]
    assert adjust_p_values_holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1], abs=1e-12)
