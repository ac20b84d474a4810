"""Token ids in, token ids out: prefill, sampling, decoding."""

from .batching import BatchGenerator, NewToken
from .decode import Seen, Step, Watch, generate_ids
from .prompt import check_prompt, room_in
from .sampling import Sampler, Sampling, SamplingOptions, stream_seed

__all__ = [
    "BatchGenerator",
    "NewToken",
    "Sampler",
    "Sampling",
    "SamplingOptions",
    "Seen",
    "Step",
    "Watch",
    "check_prompt",
    "generate_ids",
    "room_in",
    "stream_seed",
]
