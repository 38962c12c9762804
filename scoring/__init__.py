"""The scoring job: load, tokens, log-likelihoods, metrics, publish.

Never imports watcher, never reads its journal.
"""

SCORER_VERSION = 4
"""Part of every part's key. Raised only when numbers change, so that old parts are scored again."""
