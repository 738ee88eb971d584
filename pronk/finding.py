"""What `pronk doctor` finds: said by the command line and by each service about its own files."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        verdict: `missing` keeps `pronk up` from working; `optional` only something less.
        found: what is there.
        advice: what to do, empty where nothing needs to be done.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
