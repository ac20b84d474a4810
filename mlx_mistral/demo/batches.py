"""Chats as token rows with a weight for every token to predict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import sentencepiece

from mlx_mistral.demo.architecture import WINDOW
from mlx_mistral.demo.corpus import SLOTS, Turn, chat, known_values

BOS, EOS, INST, END_INST = 1, 2, 3, 4
PLACES = 96
REACH = 6 * WINDOW
"""Layers x window: further back than this, nothing can be recalled."""
USER_WEIGHT, REPLY_WEIGHT, VALUE_WEIGHT = 0.05, 1.0, 4.0
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a step.

    Shapes: inputs (B, T); positions, targets, weights (B, P): the P positions of a row whose
    prediction is trained, what follows them, and how much each counts. places (B, R), facts
    and distances (B, R, slots): at R positions, which value each slot has (a number, -1 for
    none) and how many tokens back it was last mentioned.
    """

    inputs: Tokens
    positions: Tokens
    targets: Tokens
    weights: npt.NDArray[np.float32]
    places: Tokens
    facts: Tokens
    distances: Tokens


@dataclass(slots=True)
class EncodedChat:
    """A chat as ids, the weight of each as a target, and where facts were mentioned.

    mentions: (position, slot, value's number) of every listed value, in order.
    """

    ids: list[int]
    weights: list[float]
    mentions: list[tuple[int, int, int]]

    def facts_at(self, places: Tokens) -> tuple[Tokens, Tokens]:
        """What a reader knows at some positions. Shapes: (R,) -> (R, slots) twice."""
        facts = np.full((len(places), len(SLOTS)), -1, np.int32)
        distances = np.zeros_like(facts)
        for position, slot, value in self.mentions:
            later = places > position
            facts[later, slot] = value
            distances[later, slot] = places[later] - position
        return facts, distances


class ChatEncoder:
    """Turns into ids, as mistral-common's v3 instruct format does."""

    def __init__(self, tokenizer: Path) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.numbers = {value: i for i, value in enumerate(known_values())}

    def prompt(self, turn: Turn) -> list[int]:
        text = f"{turn.system}\n\n{turn.user}" if turn.system else turn.user
        return [INST, *self._pieces.encode(text), END_INST]

    def reply(self, turn: Turn) -> list[int]:
        return [*self._pieces.encode(turn.reply), EOS]

    def value_ids(self, value: str) -> list[int]:
        """The ids of a value inside a reply."""
        ids: list[int] = self._pieces.encode(value)
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._pieces.decode(ids)
        return text

    def value_weights(self, turn: Turn, reply: list[int]) -> list[float]:
        """The weight of each reply token: a recalled value counts most."""
        weights = [REPLY_WEIGHT] * len(reply)
        for value in turn.values:
            wanted = self.value_ids(value)
            for i in range(len(reply) - len(wanted) + 1):
                if reply[i : i + len(wanted)] == wanted:
                    weights[i : i + len(wanted)] = [VALUE_WEIGHT] * len(wanted)
        return weights


def encode_chat(encoder: ChatEncoder, rng: Random, length: int) -> EncodedChat:
    """The first `length` ids of a training chat."""
    ids, weights, mentions = [BOS], [0.0], list[tuple[int, int, int]]()
    last: dict[str, int] = {}
    for turn in chat(rng):
        prompt, reply = encoder.prompt(turn), encoder.reply(turn)
        reply_weights = encoder.value_weights(turn, reply)
        for part in (prompt, reply):
            for slot, value in zip(turn.slots, turn.values, strict=False):
                place = find(part, encoder.value_ids(value))
                if place >= 0:
                    position = len(ids) + place
                    if part is reply and position - last.get(slot, position) > REACH:
                        # Nobody can know it any more: guessing is not to be learned.
                        end = place + len(encoder.value_ids(value))
                        reply_weights[place:end] = [0.0] * (end - place)
                    number = encoder.numbers.get(value, -1)
                    mentions.append((position, SLOTS.index(slot), number))
                    last[slot] = position
            ids += part
        weights += [USER_WEIGHT] * len(prompt) + reply_weights
        if len(ids) >= length:
            break
    return EncodedChat(ids[:length], weights[:length], mentions)


def find(ids: list[int], wanted: list[int]) -> int:
    """Where `wanted` begins for the last time in `ids`; -1: nowhere."""
    starts = [i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted]
    return starts[-1] if starts else -1


def batches(
    tokenizer: Path, *, seed: int, start: int, rows: int, length: int, positions: int
) -> Iterator[Batch]:
    """Endless batches, the same ones for the same seed; `start` skips as many.

    `positions` of each row's `length` are trained: the most weighted, replies first.
    """
    encoder = ChatEncoder(tokenizer)
    step = start
    while True:
        chats = [
            encode_chat(encoder, Random(f"train {seed} {step} {row}"), length + 1)
            for row in range(rows)
        ]
        ids = np.array([c.ids for c in chats], np.int32)
        weights = np.array([c.weights for c in chats], np.float32)[:, 1:]
        random = np.random.default_rng((seed, step))
        noise = random.random(weights.shape) * USER_WEIGHT
        places = random.integers(0, length, (rows, PLACES)).astype(np.int32)
        known = [c.facts_at(row) for c, row in zip(chats, places, strict=True)]
        chosen = np.sort(np.argsort(-weights - noise, axis=1)[:, :positions], axis=1)
        yield Batch(
            inputs=ids[:, :-1],
            positions=chosen.astype(np.int32),
            targets=np.take_along_axis(ids[:, 1:], chosen, axis=1),
            weights=np.take_along_axis(weights, chosen, axis=1),
            places=places,
            facts=np.stack([facts for facts, _ in known]),
            distances=np.stack([distances for _, distances in known]),
        )
        step += 1


def used_ids(tokenizer: Path, *, seed: int, chats: int = 4000, length: int = 480) -> list[int]:
    """Ids that training text contains, from a sample of it, and every byte-free piece."""
    encoder = ChatEncoder(tokenizer)
    seen: set[int] = set()
    for i in range(chats):
        seen.update(encode_chat(encoder, Random(f"used {seed} {i}"), length).ids)
    return sorted(seen)
