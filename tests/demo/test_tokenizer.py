"""The tokenizer's layout, and that training speaks mistral-common's format."""

from random import Random

import pytest
import sentencepiece
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    SystemMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mlx_mistral.demo import corpus, model_path
from mlx_mistral.demo.architecture import CONFIG
from mlx_mistral.demo.batches import BOS, VALUE_WEIGHT, ChatEncoder
from mlx_mistral.demo.train_tokenizer import control_pieces, train_tokenizer

PATH = model_path() / "tokenizer.model.v3"


@pytest.fixture(scope="module")
def pieces():
    return sentencepiece.SentencePieceProcessor(model_file=str(PATH))


def test_ids_are_laid_out_as_in_version_3(pieces):
    official = MistralTokenizer.v3().instruct_tokenizer.tokenizer._model
    assert pieces.vocab_size() == CONFIG["vocab_size"]
    for i in range(3 + 768 + 256):
        assert pieces.id_to_piece(i) == official.id_to_piece(i)
        assert pieces.is_control(i) == official.is_control(i)
        assert pieces.is_byte(i) == official.is_byte(i)
    assert sum(map(len, control_pieces())) == 768


@pytest.mark.parametrize("text", ["Épelle le mot œuf.", " two  spaces ", "日本 🙂", "37+45=82"])
def test_any_text_survives_the_round_trip(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text


def test_training_speaks_the_format_of_mistral_common():
    tokenizer = MistralTokenizer.from_file(str(PATH))
    assert tokenizer.instruct_tokenizer.tokenizer.version == TokenizerVersion.v3
    encoder, rng = ChatEncoder(PATH), Random(5)
    first, second = (corpus.topic_turn(rng, "fr", topic) for topic in ("window", "moe"))
    last = corpus.Turn("who", "en", "Who are you?", "", (), system="Be brief.")
    request = ChatCompletionRequest(
        messages=[
            SystemMessage(content=last.system),
            UserMessage(content=first.user),
            AssistantMessage(content=first.reply),
            UserMessage(content=second.user),
            AssistantMessage(content=second.reply),
            UserMessage(content=last.user),
        ]
    )
    ids = [BOS]
    for turn in (first, second):
        ids += encoder.prompt(turn) + encoder.reply(turn)
    assert tokenizer.encode_chat_completion(request).tokens == ids + encoder.prompt(last)


def test_a_recalled_value_weighs_more():
    encoder = ChatEncoder(PATH)
    turn = corpus.recall_turn(Random(1), "en", "animal", {"animal": "owl"})
    ids = encoder.reply(turn)
    weights = encoder.value_weights(turn, ids)
    heavy = [i for i, w in zip(ids, weights, strict=True) if w == VALUE_WEIGHT]
    assert encoder.decode(heavy) == "owl"


def test_training_the_tokenizer_again_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        train_tokenizer(tmp_path / name, chats=60)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
