"""Record the logits of tiny random checkpoints, computed by transformers.

Made with torch 2.13.0 (CPU), transformers 5.23.0, safetensors 0.8.0 and numpy 2.4.6; versions.json
says what the files beside this script were made with. To make them again:

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python tests/recordings/make.py

Each family becomes a folder as transformers saves it, with recording.npz: `tokens` (B, T) int32
and `logits` (B, T, vocab) float32. official.py writes the same weights in Mistral's own layouts.
Nothing here imports mlx_mistral. Every recording is checked to be able to fail: a likely mistake
(window off by one, no YaRN, another theta, ...) must move some logit by more than 1e-2.
"""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import official
import safetensors
import torch
import transformers
from families import FAMILIES, Family
from safetensors.torch import load_file

HERE = Path(__file__).parent
CAN_FAIL = 1e-2  # a mistake has to move a logit by more than this
ROUNDING = 5e-6  # float32 has to agree with float64, and eager with sdpa, to this
NEAR_TIE = 5e-4  # experts closer than this could swap places by rounding alone


def build(config: Any, attention: str = "eager") -> Any:
    """An untrained model of this configuration in evaluation mode."""
    settings = {"attn_implementation": attention, "experts_implementation": "eager"}
    architecture = getattr(transformers, config.architectures[0])
    return architecture._from_config(config, **settings).eval()


def fill(model: Any, seed: int, dtype: torch.dtype) -> None:
    """Draw weights that make attention sharp and logits of order 1 to 5.

    They are rounded to `dtype` but kept in float32, so the logits belong to the numbers on disk.
    """
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim == 1:
            drawn = torch.empty_like(p).uniform_(0.6, 1.4)
        elif "embed_tokens" in name:
            drawn = torch.randn_like(p) * (0.2 if model.config.tie_word_embeddings else 1.0)
        else:
            gain = 1.2 if "q_proj" in name or "k_proj" in name else 1.0
            drawn = gain * torch.randn_like(p) / p.shape[-1] ** 0.5
        p.data = drawn.to(dtype).float()
    model.tie_weights()


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """(B, T) -> (B, T, vocab)."""
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def smallest_router_margin(model: Any, tokens: torch.Tensor, top_k: int) -> float:
    """How far the first expert left out stays behind the last one chosen, at worst."""
    margins = []

    def watch(_module: Any, _inputs: Any, outputs: Any) -> None:
        ranked = outputs[0].sort(dim=-1, descending=True).values
        margins.append((ranked[:, top_k - 1] - ranked[:, top_k]).min().item())

    hooks = [
        m.register_forward_hook(watch) for n, m in model.named_modules() if n.endswith(".gate")
    ]
    logits(model, tokens)
    for hook in hooks:
        hook.remove()
    return min(margins, default=1.0)


def delta(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def check(family: Family, model: Any, tokens: torch.Tensor, good: torch.Tensor) -> None:
    """Exact enough to compare with, and sensitive to every mistake the family lists."""
    state = model.state_dict()
    sdpa = build(family.config(), "sdpa")
    sdpa.load_state_dict(state)
    assert delta(logits(sdpa, tokens), good) < ROUNDING, "eager and sdpa differ"
    assert delta(logits(sdpa.double(), tokens), good) < ROUNDING, "too far from float64"
    assert smallest_router_margin(model, tokens, family.top_k) > NEAR_TIE, "take another seed"
    for mistake in family.mistakes:
        wrong = build(family.config(mistake))
        wrong.load_state_dict(state)
        moved = delta(logits(wrong, tokens), good)
        assert moved > CAN_FAIL, f"{mistake} moves the logits by {moved} only"
        print(f"  {mistake} would move them by {moved:.2f}")


def record(family: Family) -> None:
    folder = HERE / family.name
    shutil.rmtree(folder, ignore_errors=True)
    model = build(family.config())
    fill(model, family.seed, family.dtype)
    tokens = torch.randint(0, family.vocab_size, family.shape)
    good = logits(model, tokens)
    print(f"{family.name}: logits {good.std():.2f} wide, at most {good.abs().max():.2f}")
    check(family, model, tokens, good)
    model.to(family.dtype).save_pretrained(folder, max_shard_size=family.max_shard_size)
    save_logits(folder, tokens, good)


def save_logits(folder: Path, tokens: torch.Tensor, good: torch.Tensor) -> None:
    arrays = {"tokens": tokens.numpy().astype(np.int32), "logits": good.numpy()}
    np.savez(folder / "recording.npz", **arrays)


def read_logits(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(folder / "recording.npz") as saved:
        return torch.from_numpy(saved["tokens"]).long(), torch.from_numpy(saved["logits"])


def record_fp8(source: Family) -> None:
    """`source` with its linears in FP8: the logits are those of the dequantized weights."""
    folder = HERE / f"{source.name}-fp8"
    model = build(source.config())
    model.load_state_dict(official.write_fp8(HERE / source.name, folder))
    tokens, unquantized = read_logits(HERE / source.name)
    good = logits(model, tokens)
    assert delta(good, unquantized) > CAN_FAIL, "the scales are too fine to notice"
    save_logits(folder, tokens, good)


def check_permutation(family: Family) -> None:
    """Official q and k weights read as Hugging Face ones have to give other logits."""
    model = build(family.config())
    weights = load_file(HERE / family.name / "model.safetensors")
    for name, w in weights.items():
        if name.endswith("q_proj.weight"):
            weights[name] = official.interleave(w, model.config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            weights[name] = official.interleave(w, model.config.num_key_value_heads)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    tokens, good = read_logits(HERE / family.name)
    moved = delta(logits(model, tokens), good)
    assert moved > CAN_FAIL, f"unpermuted weights move the logits by {moved} only"


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for family in FAMILIES.values():
        record(family)
    record_fp8(FAMILIES["devstral2"])
    for name in ("mistral", "mistral-window", "nemo", "ministral", "ministral3"):
        check_permutation(FAMILIES[name])
    official.write_all(HERE)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
