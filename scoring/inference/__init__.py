"""Log-likelihoods and greedy generation over any `Model`."""
