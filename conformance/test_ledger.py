"""Each ledger entry's witness shows exactly the divergence that it declares."""

from collections.abc import Callable
from typing import Any


def test_ledger(ledger_job: Any, gate: Callable[[Any], None]) -> None:
    """Each ledger entry's witness shows exactly the divergence that it declares."""
    gate(ledger_job)
