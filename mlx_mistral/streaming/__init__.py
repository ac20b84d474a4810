"""A Mixtral larger than memory: shared weights stay, experts are read when they are chosen."""

from .forecast import expected_hit_rate, expected_tps
from .load import StreamedModel, load_streaming
from .measured import measured_disk_speed, measured_weight_speed
from .stats import StreamingStats
from .stream import ExpertStream

__all__ = [
    "ExpertStream",
    "StreamedModel",
    "StreamingStats",
    "expected_hit_rate",
    "expected_tps",
    "load_streaming",
    "measured_disk_speed",
    "measured_weight_speed",
]
