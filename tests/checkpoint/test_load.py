"""One set of numbers in every layout is one model; what does not fit is one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_mistral.checkpoint import load_model
from mlx_mistral.errors import CheckpointError, MlxMistralError
from tests.checkpoint.models import (
    DIM,
    EXPERTS,
    HF_CONFIG,
    LAYERS,
    PARAMS,
    PARAMS_MOE,
    hf_weights,
    official_weights,
    old_mixtral_weights,
    write_hf,
    write_official,
    write_sharded,
)
from tests.checkpoint.writers import (
    bfloat16_bits,
    write_json,
    write_safetensors,
    write_torch,
)

DENSE, SPARSE = hf_weights(), hf_weights(moe=True)
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def expected_parameters(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical names; experts stacked."""
    out = {name: array for name, array in weights.items() if ".experts." not in name}
    if len(out) == len(weights):
        return out
    for n in range(LAYERS):
        moe = f"model.layers.{n}.block_sparse_moe"
        for theirs, ours in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
            out[f"{moe}.switch_mlp.{ours}_proj.weight"] = np.stack(
                [weights[f"{moe}.experts.{e}.{theirs}.weight"] for e in range(EXPERTS)]
            )
    return out


def check_equal(model: nn.Module, expected: dict[str, np.ndarray]) -> None:
    found = dict(tree_flatten(model.parameters()))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(np.array(found[name]), array), name


def shard(weights: dict[str, np.ndarray], folder: Path, suffix: str, write: Any) -> None:
    """Three consolidated files, with whole tensors in each."""
    folder.mkdir(exist_ok=True)
    names = sorted(weights)
    for part in range(3):
        piece = {name: weights[name] for name in names[part::3]}
        write(folder / f"consolidated.{part:02}.{suffix}", piece)


def hf_wrapped(folder: Path) -> Path:
    vision = {"vision_tower.patch_conv.weight": np.zeros((3, 3), np.float32)}
    weights = {f"language_model.{name}": array for name, array in DENSE.items()}
    write_hf(folder, vision | weights)
    config = {"model_type": "mistral3", "text_config": HF_CONFIG, "vision_config": {}}
    write_json(folder / "config.json", config)
    return folder


def hf_resaved(folder: Path) -> Path:
    weights = {
        name.replace("model.", "model.language_model.", 1) if name[0] == "m" else name: array
        for name, array in DENSE.items()
    }
    vision = {"model.vision_tower.patch_conv.weight": np.zeros((3, 3), np.float32)}
    write_hf(folder, vision | weights)
    config = {"model_type": "mistral3", "text_config": HF_CONFIG, "vision_config": {}}
    write_json(folder / "config.json", config)
    return folder


def hf_with_tables(folder: Path) -> Path:
    tables = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": np.ones(8, "f4") for n in (0, 1)}
    return write_hf(folder, DENSE | tables)


def official_shards(folder: Path) -> Path:
    shard(official_weights(DENSE), folder, "safetensors", write_safetensors)
    write_json(folder / "params.json", PARAMS)
    return folder


def official_pickles(folder: Path) -> Path:
    shard(official_weights(DENSE), folder, "pth", write_torch)
    write_json(folder / "params.json", PARAMS)
    return folder


def official_with_vision(folder: Path) -> Path:
    vision = {
        "vision_encoder.ln_pre.weight": np.zeros(4, np.float32),
        "vision_language_adapter.w_in.weight": np.zeros((4, 4), np.float32),
        "layers.0.attention.wq_fake_quantizer.qscale_act": np.ones((), np.float32),
    }
    return write_official(folder, official_weights(DENSE) | vision)


def mlx_stacked(folder: Path) -> Path:
    return write_hf(folder, expected_parameters(SPARSE), moe=True)


def old_mixtral_pickles(folder: Path) -> Path:
    shard(old_mixtral_weights(SPARSE), folder, "pt", write_torch)
    write_json(folder / "params.json", PARAMS_MOE)
    return folder


DENSE_LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "Hugging Face": lambda folder: write_hf(folder, DENSE),
    "Hugging Face in shards": lambda folder: write_sharded(folder, DENSE),
    "Hugging Face around a vision model": hf_wrapped,
    "Hugging Face saved anew": hf_resaved,
    "Hugging Face with RoPE tables": hf_with_tables,
    "official": lambda folder: write_official(folder, official_weights(DENSE)),
    "official in shards": official_shards,
    "official in pickles": official_pickles,
    "official with vision": official_with_vision,
}
SPARSE_LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "Hugging Face": lambda folder: write_hf(folder, SPARSE, moe=True),
    "Hugging Face in shards": lambda folder: write_sharded(folder, SPARSE, moe=True),
    "MLX": mlx_stacked,
    "official": lambda folder: write_official(folder, official_weights(SPARSE), moe=True),
    "official, first release": lambda folder: write_official(
        folder, old_mixtral_weights(SPARSE), moe=True
    ),
    "official, first release, pickles": old_mixtral_pickles,
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("write", DENSE_LAYOUTS.values(), ids=DENSE_LAYOUTS.keys())
def test_every_layout_gives_the_same_dense_weights(
    write: Callable[[Path], Path], lazy: bool, tmp_path: Path
) -> None:
    model = load_model(write(tmp_path), dtype="float32", lazy=lazy)
    check_equal(model, expected_parameters(DENSE))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("write", SPARSE_LAYOUTS.values(), ids=SPARSE_LAYOUTS.keys())
def test_every_layout_gives_the_same_experts(
    write: Callable[[Path], Path], lazy: bool, tmp_path: Path
) -> None:
    model = load_model(write(tmp_path), dtype="float32", lazy=lazy)
    check_equal(model, expected_parameters(SPARSE))


def test_official_and_hugging_face_layouts_give_equal_logits(tmp_path: Path) -> None:
    tokens = mx.array([[1, 5, 9, 2, 77, 3]])
    logits = [
        load_model(folder, dtype="float32")(tokens)
        for folder in (
            write_hf(tmp_path / "hf", DENSE),
            write_official(tmp_path / "official", official_weights(DENSE)),
        )
    ]
    assert mx.array_equal(*logits)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_bfloat16_weights_keep_their_bits(kind: str, tmp_path: Path) -> None:
    bits = {name: bfloat16_bits(array) for name, array in official_weights(DENSE).items()}
    write_json(tmp_path / "params.json", PARAMS)
    if kind == "pickle":
        write_torch(tmp_path / "consolidated.00.pth", bits)
    else:
        write_safetensors(tmp_path / "consolidated.safetensors", bits)
    widened = {
        name: (bfloat16_bits(array).astype(np.uint32) << 16).view(np.float32)
        for name, array in DENSE.items()
    }
    check_equal(load_model(tmp_path, dtype="float32"), widened)
    model = load_model(tmp_path, dtype="bfloat16")
    assert model.model.norm.weight.dtype == mx.bfloat16
    assert np.array_equal(
        np.array(model.model.norm.weight.astype(mx.float32)), widened["model.norm.weight"]
    )


def test_a_tied_model_needs_no_head(tmp_path: Path) -> None:
    weights = {name: array for name, array in DENSE.items() if name != "lm_head.weight"}
    model = load_model(write_hf(tmp_path, weights, tie_word_embeddings=True))
    assert "lm_head" not in model
    assert model(mx.array([[1, 2]])).shape == (1, 2, 80)


def test_a_stored_head_is_used_whatever_the_configuration_claims(tmp_path: Path) -> None:
    model = load_model(write_hf(tmp_path, DENSE, tie_word_embeddings=True))
    assert np.array_equal(np.array(model.lm_head.weight), DENSE["lm_head.weight"])


MODES: list[dict[str, Any]] = [
    {"group_size": 32, "bits": 4},
    {"group_size": 64, "bits": 4},
    {"group_size": 32, "bits": 2, "mode": "affine"},
    {"group_size": 32, "bits": 3, "mode": "affine"},
    {"group_size": 32, "bits": 5, "mode": "affine"},
    {"group_size": 32, "bits": 6, "mode": "affine"},
    {"group_size": 32, "bits": 8, "mode": "affine"},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    {"group_size": 32, "bits": 8, "mode": "mxfp8"},
]


def convert_with_mlx_lm(
    source: Path, folder: Path, quantization: dict[str, Any], choose: Any
) -> nn.Module:
    """A quantized folder written by mlx-lm's own functions; returns the model it loads from it."""
    from mlx_lm.utils import load_config, quantize_model, save_model
    from mlx_lm.utils import load_model as load_with_mlx_lm

    model, _ = load_with_mlx_lm(source)
    model, config = quantize_model(
        model,
        load_config(source),
        quantization["group_size"],
        quantization["bits"],
        mode=quantization.get("mode", "affine"),
        quant_predicate=choose,
    )
    folder.mkdir()
    save_model(folder, model)
    write_json(folder / "config.json", config)
    theirs, _ = load_with_mlx_lm(folder)
    return theirs


@pytest.mark.parametrize("moe", [False, True])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(map(str, mode.values())))
def test_a_folder_quantized_by_mlx_lm_gives_the_logits_it_has_there(
    mode: dict[str, Any], moe: bool, tmp_path: Path
) -> None:
    source = write_hf(tmp_path / "hf", SPARSE if moe else DENSE, moe=moe)

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % mode["group_size"]:
            return False
        if path == "model.layers.0.self_attn.v_proj":
            return {"group_size": 32, "bits": 8, "mode": "affine"}
        return "layers.1.self_attn.o_proj" not in path

    theirs = convert_with_mlx_lm(source, tmp_path / "mlx", mode, choose)
    ours = load_model(tmp_path / "mlx", dtype="float32")
    theirs.set_dtype(mx.float32)
    reference, found = (dict(tree_flatten(model.parameters())) for model in (theirs, ours))
    assert found.keys() == reference.keys()
    assert all(mx.array_equal(found[name], reference[name]) for name in reference)
    tokens = mx.array([[1, 5, 9, 2, 77, 3]])
    assert mx.abs(ours(tokens) - theirs(tokens)).max().item() < 1e-5


def test_overrides_with_a_wrapper_prefix_are_found(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "hf", DENSE)
    convert_with_mlx_lm(source, tmp_path / "mlx", {"group_size": 32, "bits": 4}, _mixed_bits)
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    quantization = {
        f"language_model.{key}" if key.startswith("model.") else key: value
        for key, value in config["quantization"].items()
    }
    text_config = {k: v for k, v in config.items() if not k.startswith("quantization")}
    write_json(
        wrapped / "config.json",
        {"model_type": "mistral3", "text_config": text_config, "quantization": quantization},
    )
    weights = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    mx.save_safetensors(
        str(wrapped / "model.safetensors"),
        {f"language_model.{name}": array for name, array in weights.items()},
    )
    model = load_model(wrapped)
    assert model.model.layers[0].self_attn.v_proj.bits == 8
    assert model.model.layers[0].self_attn.q_proj.bits == 4


def _mixed_bits(path: str, module: nn.Module) -> bool | dict[str, Any]:
    if "v_proj" in path:
        return {"group_size": 32, "bits": 8, "mode": "affine"}
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def without(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in DENSE.items() if key != name}


PACKED = np.zeros((DIM, DIM // 8), np.uint32)
UNFIT: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str]] = {
    "a missing tensor": (without(Q_PROJ), {}, rf"lack {Q_PROJ}"),
    "a missing head": (without("lm_head.weight"), {}, r"lack lm_head\.weight"),
    "an extra tensor": (
        DENSE | {"model.extra.weight": np.zeros(2, "f4")},
        {},
        "'model.extra.weight'",
    ),
    "a bias": (DENSE | {Q_PROJ.replace("weight", "bias"): np.zeros(DIM, "f4")}, {}, "q_proj.bias"),
    "a wrong shape": (DENSE | {Q_PROJ: np.zeros((DIM, 2), "f4")}, {}, r"\[64, 2\].*\[64, 64\]"),
    "a transposed tensor": (
        DENSE | {"lm_head.weight": DENSE["lm_head.weight"].T},
        {},
        r"\[64, 80\].*\[80, 64\]",
    ),
    "an integer tensor": (DENSE | {Q_PROJ: np.zeros((DIM, DIM), "i8")}, {}, "is I64"),
    "a double tensor": (DENSE | {Q_PROJ: np.zeros((DIM, DIM), "f8")}, {}, "is F64"),
    "a bare byte tensor": (DENSE | {Q_PROJ: np.zeros((DIM, DIM), "u1")}, {}, "is U8"),
    "a smaller configuration": (DENSE, {"hidden_size": 32}, "do not belong together"),
    "fewer layers": (DENSE, {"num_hidden_layers": 1}, "layer 1 is left over"),
    "more layers": (DENSE, {"num_hidden_layers": 3}, "layer 2 is missing"),
    "a million layers": (DENSE, {"num_hidden_layers": 1_000_000}, "layer 2 is missing"),
    "a huge vocabulary": (DENSE, {"vocab_size": 1 << 24}, "do not belong together"),
    "a huge width": (DENSE, {"intermediate_size": 1 << 24}, "do not belong together"),
    "scales without quantization": (
        DENSE | {Q_PROJ: PACKED, Q_PROJ.replace("weight", "scales"): np.zeros((DIM, 2), "f4")},
        {},
        "no 'quantization'",
    ),
    "packed weights without scales": (
        DENSE | {Q_PROJ: PACKED},
        {"quantization": {"group_size": 32, "bits": 4}},
        r"\[64, 8\].*\[64, 64\]",
    ),
    "quantization without biases": (
        DENSE | {Q_PROJ: PACKED, Q_PROJ.replace("weight", "scales"): np.zeros((DIM, 2), "f4")},
        {"quantization": {"group_size": 32, "bits": 4}},
        "lack .*q_proj.biases",
    ),
    "quantization of other bits": (
        DENSE
        | {
            Q_PROJ: PACKED,
            Q_PROJ.replace("weight", "scales"): np.zeros((DIM, 2), "f4"),
            Q_PROJ.replace("weight", "biases"): np.zeros((DIM, 2), "f4"),
        },
        {"quantization": {"group_size": 32, "bits": 8}},
        r"\[64, 8\].*\[64, 16\]",
    ),
    "quantization that its configuration rules out": (
        DENSE | {Q_PROJ: PACKED, Q_PROJ.replace("weight", "scales"): np.zeros((DIM, 2), "f4")},
        {"quantization": {"group_size": 32, "bits": 4, Q_PROJ.removesuffix(".weight"): False}},
        "rules out",
    ),
    "groups that do not divide a row": (
        DENSE | {Q_PROJ: PACKED, Q_PROJ.replace("weight", "scales"): np.zeros((DIM, 2), "f4")},
        {"quantization": {"group_size": 128, "bits": 4}},
        "do not divide",
    ),
}


@pytest.mark.parametrize(("weights", "config", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_what_does_not_fit_is_named_and_nothing_is_read(
    weights: dict[str, np.ndarray], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_hf(tmp_path, weights, **config)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    with pytest.raises(MlxMistralError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert mx.get_peak_memory() - before < 1_000_000


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    write_hf(tmp_path, {key: array for key, array in SPARSE.items() if key != name}, moe=True)
    with pytest.raises(CheckpointError, match=r"expert 2 of 4 of .*layers\.1.*up_proj"):
        load_model(tmp_path)


def test_an_expert_too_many_is_named(tmp_path: Path) -> None:
    name = "model.layers.1.block_sparse_moe.experts.4.w3.weight"
    write_hf(tmp_path, SPARSE | {name: np.zeros((96, 64), "f4")}, moe=True)
    with pytest.raises(CheckpointError, match=r"experts\.4\.w3.*one expert more than the 4"):
        load_model(tmp_path)


def test_experts_of_different_shapes_are_named(tmp_path: Path) -> None:
    name = "model.layers.1.block_sparse_moe.experts.3.w3.weight"
    write_hf(tmp_path, SPARSE | {name: np.zeros((95, 64), "f4")}, moe=True)
    with pytest.raises(CheckpointError, match="must be alike"):
        load_model(tmp_path)


def test_experts_in_a_dense_model_are_refused(tmp_path: Path) -> None:
    write_hf(tmp_path, SPARSE)
    with pytest.raises(CheckpointError, match="one expert more than the 0"):
        load_model(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    official_shards(tmp_path)
    first = tmp_path / "consolidated.00.safetensors"
    both = official_weights(DENSE)
    names = sorted(both)
    write_safetensors(first, {name: both[name] for name in [*names[::3], names[1]]})
    with pytest.raises(CheckpointError, match="which is also in"):
        load_model(tmp_path)


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    write_hf(tmp_path, DENSE | {f"language_model.{Q_PROJ}": DENSE[Q_PROJ]})
    with pytest.raises(CheckpointError, match="which is also in"):
        load_model(tmp_path)


def test_an_index_that_belongs_to_other_shards_is_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path, DENSE)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][Q_PROJ] = "model-00001-of-00003.safetensors"
    other = next(n for n, f in index["weight_map"].items() if "00001" not in f)
    index["weight_map"][other] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="where it is not"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1, "a": 2}', "\x00", "[" * 100_000])
def test_a_broken_configuration_is_one_line(content: str, tmp_path: Path) -> None:
    write_hf(tmp_path, DENSE)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "float64", "bf16", "", mx.int32, mx.complex64])
def test_an_unknown_dtype_is_refused(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="use one of float32"):
        load_model(write_hf(tmp_path, DENSE), dtype=dtype)


@pytest.mark.parametrize("dtype", [None, "auto", mx.float32, "float32"])
def test_the_cpu_backend_computes_in_float32_unless_told_otherwise(
    dtype: Any, tmp_path: Path
) -> None:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        model = load_model(write_hf(tmp_path, DENSE), dtype=dtype)
    finally:
        mx.set_default_device(before)
    assert {p.dtype for _, p in tree_flatten(model.parameters())} == {mx.float32}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_quantized_scales_follow_the_dtype_and_codes_stay(dtype: str, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "hf", DENSE)
    convert_with_mlx_lm(source, tmp_path / "mlx", {"group_size": 32, "bits": 4}, _mixed_bits)
    module = load_model(tmp_path / "mlx", dtype=dtype).model.layers[0].self_attn.q_proj
    assert module.weight.dtype == mx.uint32
    assert module.scales.dtype == module.biases.dtype == getattr(mx, dtype)


def test_loaded_weights_can_be_used_from_another_thread(tmp_path: Path) -> None:
    model = load_model(write_hf(tmp_path, SPARSE, moe=True))
    tokens = mx.array([[1, 2, 3]])
    results = []

    def run() -> None:
        stream = mx.new_thread_local_stream(mx.default_device())
        with mx.stream(stream):
            logits = model(tokens)
            mx.eval(logits)
            results.append(logits)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert mx.array_equal(results[0], model(tokens))


MEASURE = """
import resource, sys
import mlx.core as mx
from mlx_mistral.checkpoint import load_model
mx.eval(mx.zeros(1))
mx.reset_peak_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load_model(sys.argv[1], dtype=sys.argv[2])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scale = 1 if sys.platform == "darwin" else 1024
print(mx.get_active_memory(), mx.get_peak_memory(), (after - before) * scale)
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["hf", "pth"])
def test_loading_holds_at_most_the_model_and_one_tensor(
    layout: str, dtype: str, tmp_path: Path
) -> None:
    dim, hidden = 512, 2048
    sizes = {64: dim, 96: hidden}
    weights = {}
    for name, array in SPARSE.items():
        rows, *columns = array.shape
        if not any(part in name for part in ("q_proj", "k_proj", "v_proj")):
            rows = sizes.get(rows, rows)
        columns = [n if "o_proj" in name else sizes.get(n, n) for n in columns]
        weights[name] = np.zeros((rows, *columns), np.float32)
    if layout == "hf":
        write_hf(tmp_path, weights, moe=True, hidden_size=dim, intermediate_size=hidden)
    else:
        write_json(tmp_path / "params.json", PARAMS_MOE | {"dim": dim, "hidden_dim": hidden})
        write_torch(tmp_path / "consolidated.00.pth", official_weights(weights))
    tensor_bytes = dim * hidden * 4
    model_bytes = sum(array.nbytes for array in weights.values()) * (
        1 if dtype == "float32" else 0.5
    )
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), dtype],
        capture_output=True,
        text=True,
        check=True,
    )
    active_bytes, peak_bytes, resident_bytes = map(int, measured.stdout.split())
    assert active_bytes == pytest.approx(model_bytes, rel=0.01)
    # A tensor that is cast is there in both dtypes for a moment.
    assert peak_bytes - active_bytes <= (1.1 if dtype == "float32" else 1.6) * tensor_bytes
    # A margin for the modules that are imported on the way; Metal's buffers are counted apart.
    if sys.platform == "linux":
        assert resident_bytes - active_bytes <= 2.5 * tensor_bytes + 40e6
