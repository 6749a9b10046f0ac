"""kvlockstep: any port of MLX's KV caches, in lockstep with mlx-lm's own classes."""

from kvlockstep._check import ConformanceError, check_target
from kvlockstep._jobs import JobReport
from kvlockstep._targets import TargetError
from kvlockstep._trace import Trace, TraceError

__all__ = ["ConformanceError", "JobReport", "TargetError", "Trace", "TraceError", "check_target"]
