"""Token ids in, token ids out: prefill, sampling, decoding."""

from .batch import BatchStep, generate_batch
from .batching import BatchGenerator, NewToken
from .decode import Seen, Step, Watch, generate_ids
from .prompt import check_prompt, room_in
from .sampling import Sampler, Sampling, SamplingOptions

__all__ = [
    "BatchGenerator",
    "BatchStep",
    "NewToken",
    "Sampler",
    "Sampling",
    "SamplingOptions",
    "Seen",
    "Step",
    "Watch",
    "check_prompt",
    "generate_batch",
    "generate_ids",
    "room_in",
]
