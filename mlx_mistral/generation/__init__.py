"""Token ids in, token ids out: prefill, sampling, decoding."""

from .batch import BatchStep, generate_batch
from .decode import Step, generate_ids
from .prompt import check_prompt, room_in
from .sampling import Sampler, Sampling, SamplingOptions

__all__ = [
    "BatchStep",
    "Sampler",
    "Sampling",
    "SamplingOptions",
    "Step",
    "check_prompt",
    "generate_batch",
    "generate_ids",
    "room_in",
]
