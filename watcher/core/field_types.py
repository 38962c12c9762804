"""Types of fields that come from files: what may become a path, a time or a count.

Journals, requests and attempt folders lie where others may write. A value outside of these bounds would break what
computes with it, or lead out of our folders, so its line or file is refused and named.
"""

from typing import Annotated

import msgspec

UnixTime = Annotated[float, msgspec.Meta(ge=-1e11, le=1e11)]
"""Seconds that calendars can express, to the year 5138."""

Step = Annotated[int, msgspec.Meta(ge=0, le=10**18)]

Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]

TaskCount = Annotated[int, msgspec.Meta(ge=1, le=10**5)]

FileName = Annotated[str, msgspec.Meta(pattern=r"\A(?!\.{1,2}\Z)[^/\x00]+\Z", max_length=255)]
"""One component of a path; never ``.`` or ``..``."""

PathText = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00]*\Z", max_length=4096)]
"""A path, or an empty text."""

WordOrNothing = Annotated[str, msgspec.Meta(pattern=r"\A[^/\x00\s]*\Z", max_length=255)]
"""A job id or a digest: a part of file names and arguments."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
"""A duration."""
