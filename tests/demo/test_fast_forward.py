"""The training pass computes what the runtime's modules compute."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_mistral.config import ModelConfig
from mlx_mistral.demo import fast_forward
from mlx_mistral.demo.architecture import CONFIG, WINDOW, model_config
from mlx_mistral.model import Model

LENGTH = 3 * WINDOW
ROOM_FOR_ALL = 4.0


@pytest.fixture
def model():
    """Two layers of the demo's shape, with weights large enough to matter."""
    mx.random.seed(0)
    model = Model(ModelConfig.from_hf({**CONFIG, "num_hidden_layers": 2}))
    model.update(tree_map(lambda p: 2 * p if p.ndim > 1 else p, model.parameters()))
    return model


@pytest.fixture
def tokens():
    return mx.random.randint(0, CONFIG["vocab_size"], (2, LENGTH))


def test_hidden_states_equal_the_modules(model, tokens):
    mask = fast_forward.band(LENGTH, WINDOW)
    x, balance, states = fast_forward.hidden_states(model, tokens, mask, ROOM_FOR_ALL)
    np.testing.assert_allclose(x, model.model(tokens), atol=1e-4)
    assert 0.9 < balance.item() < 2
    assert [state.shape for state in states] == [x.shape] * 2


def test_gradients_equal_the_modules(model, tokens):
    mask = fast_forward.band(LENGTH, WINDOW)
    direction = mx.sin(mx.arange(CONFIG["hidden_size"]))

    def fast(parameters):
        model.update(parameters)
        return (fast_forward.hidden_states(model, tokens, mask, ROOM_FOR_ALL)[0] * direction).sum()

    def plain(parameters):
        model.update(parameters)
        return (model.model(tokens) * direction).sum()

    parameters = model.parameters()
    ours = dict(tree_flatten(mx.grad(fast)(parameters)))
    for name, wanted in tree_flatten(mx.grad(plain)(parameters)):
        scale = mx.abs(wanted).max().item() + 1e-6
        np.testing.assert_allclose(ours[name] / scale, wanted / scale, atol=2e-3, err_msg=name)


def test_dealing_gives_every_choice_its_own_slot_until_a_block_is_full():
    chosen = mx.array([[0, 1], [0, 2], [0, 1], [0, 3]])
    choice_of_slot, slot_of_choice, counts = fast_forward.deal(chosen, 4, 3)
    assert counts.tolist() == [4, 2, 1, 1]
    nobody, no_room = 8, 12
    slots, choices = slot_of_choice.tolist(), choice_of_slot.tolist()
    assert slots.count(no_room) == 1
    assert choices.count(nobody) == no_room - 7
    for choice, slot in enumerate(slots):
        if slot != no_room:
            assert slot // 3 == chosen.flatten()[choice].item()
            assert choices[slot] == choice


def test_the_exponential_is_close_enough():
    x = np.linspace(-30, 10, 999, dtype=np.float32)
    np.testing.assert_allclose(fast_forward._exp(mx.array(x)), np.exp(x), rtol=1e-4, atol=1e-9)


def test_cross_entropy_equals_its_definition():
    logits, targets = mx.random.normal((5, 7)) * 4, mx.array([0, 6, 3, 3, 1])

    def plain(z):
        right = mx.take_along_axis(z, targets[:, None], axis=-1).squeeze(-1)
        return (mx.logsumexp(z, axis=-1) - right).sum()

    loss = fast_forward.cross_entropy(logits, targets).sum()
    np.testing.assert_allclose(loss, plain(logits), rtol=1e-4)
    ours = mx.grad(lambda z: fast_forward.cross_entropy(z, targets).sum())(logits)
    np.testing.assert_allclose(ours, mx.grad(plain)(logits), atol=1e-4)


def test_the_demo_is_a_windowed_mixtral():
    config = model_config()
    assert config.family == "mixtral"
    assert set(config.windows) == {WINDOW}
    assert config.moe.num_experts == 8
    assert config.moe.num_experts_per_tok == 2
    assert config.n_heads == 3 * config.n_kv_heads
