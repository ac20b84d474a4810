"""Trains the demo's SentencePiece tokenizer and lays it out as Mistral's v3 does.

Ids: <unk> <s> </s>, 768 control slots from [INST]=3, 256 bytes, then BPE pieces.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from mlx_mistral.demo.corpus import chat
from mlx_mistral.demo.phrasebook import LANGUAGES, read

pb: Any = sentencepiece_model_pb2

VOCAB_SIZE = 2304
CONTROL_SLOTS = 768
_DOCUMENTS = 20
_NAMED = (
    "[INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] "
    "[/TOOL_RESULTS] [IMG] [PREFIX] [MIDDLE] [SUFFIX]"
).split()


def control_pieces() -> tuple[list[str], list[str]]:
    """The 748 control pieces and the 20 user-defined ones, in the order of the v3 layout."""
    fillers = range(len(_NAMED) + 1, CONTROL_SLOTS - _DOCUMENTS + 1)
    documents = [f"[REFERENCE_DOC_{i}]" for i in reversed(range(_DOCUMENTS))]
    return _NAMED + [f"[control_{i}]" for i in fillers], documents


def sentences(seed: int, chats: int) -> Iterator[str]:
    """Every question and reply of some chats, one a line.

    The values of facts are repeated until each earns a piece of its own: a fact then travels
    from layer to layer as one token.
    """
    for language in LANGUAGES:
        for section in read("facts", language).values():
            for value in filter(None, section.phrases["values"]):
                yield from [" ".join([value] * 50)] * 40
    for i in range(chats):
        for turn in islice(chat(Random(f"tokenizer {seed} {i}")), 20):
            yield turn.user
            yield turn.reply


def train_tokenizer(path: Path, *, seed: int = 0, chats: int = 4000) -> None:
    """Writes the tokenizer to `path`, which mistral-common reads as v3 by its name."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(seed, chats),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=VOCAB_SIZE - CONTROL_SLOTS,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    model = pb.ModelProto.FromString(buffer.getvalue())
    model.trainer_spec.vocab_size = VOCAB_SIZE
    model.trainer_spec.model_prefix = ""
    controls, documents = control_pieces()
    model.trainer_spec.control_symbols.extend(controls)
    model.trainer_spec.user_defined_symbols.extend(documents)
    learned = list(model.pieces)
    del model.pieces[3:]
    kind = pb.ModelProto.SentencePiece.Type
    for names, value in ((controls, kind.CONTROL), (documents, kind.USER_DEFINED)):
        model.pieces.extend(
            pb.ModelProto.SentencePiece(piece=name, score=0.0, type=value) for name in names
        )
    model.pieces.extend(learned[3:])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    from mlx_mistral.demo import model_path

    train_tokenizer(model_path() / "tokenizer.model.v3")
