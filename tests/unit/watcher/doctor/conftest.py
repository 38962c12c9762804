"""The fixture of all tests of `watcher doctor`."""

from support.runs.doctor_config import here  # noqa: F401
