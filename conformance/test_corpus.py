"""The traces of the corpus show no undeclared divergence."""

from collections.abc import Callable
from typing import Any


def test_corpus(corpus_job: Any, gate: Callable[[Any], None]) -> None:
    """The traces of the corpus show no undeclared divergence."""
    gate(corpus_job)
