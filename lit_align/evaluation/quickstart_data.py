"""Files of the quickstart: data of every kind, held-out prompts, a tokenizer and an initial model.

Everything follows from one seed and needs no download. Each of the 160 questions keeps one of its ten frames back:
these 160 prompts are held out and never occur in training. The quickstart itself reads demonstrations and preferences;
the other kinds are for the other methods.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_align.evaluation.quickstart_kinds import assistant, demonstration, make_kinds, user
from lit_align.evaluation.quickstart_language import (
    COURTEOUS,
    FRAMES,
    RUDE,
    Prompt,
    questions,
    write_reply,
)

DEMONSTRATIONS_PER_PROMPT = 2
TRAINING_PAIRS = 960
VOCABULARY = 768
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>")


class World(NamedTuple):
    """The rows of every file, in TRL's conversational columns."""

    demonstrations: list[dict[str, Any]]
    demonstrations_heldout: list[dict[str, Any]]
    preferences: list[dict[str, Any]]
    preferences_heldout: list[dict[str, Any]]
    prompts_heldout: list[dict[str, Any]]
    ranked: list[dict[str, Any]]
    """This kind and the further ones: see `make_kinds`."""
    unpaired: list[dict[str, Any]]
    scored: list[dict[str, Any]]
    judged: list[dict[str, Any]]
    timed_pairs: list[dict[str, Any]]
    scored_pairs: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    rated: list[dict[str, Any]]
    safe_pairs: list[dict[str, Any]]
    game_pairs: list[dict[str, Any]]
    contextual: list[dict[str, Any]]
    paraphrased: list[dict[str, Any]]
    judging: list[dict[str, Any]]
    questions: list[dict[str, Any]]

    def texts(self) -> list[str]:
        """All messages that the quickstart trains on: the tokenizer is made of these."""
        return [
            message["content"]
            for row in (*self.demonstrations, *self.preferences)
            for column in row.values()
            for message in column
        ]


def split_prompts(rng: random.Random) -> tuple[list[Prompt], list[Prompt]]:
    """All prompts of the world: (for training, held out).

    Of each question one frame is held out; every frame is held out equally often, so that kind and curt prompts
    are balanced on both sides.
    """
    asked = list(questions().values())
    rng.shuffle(asked)
    training: list[Prompt] = []
    heldout: list[Prompt] = []
    for number, question in enumerate(asked):
        for index, frame in enumerate(FRAMES):
            side = heldout if index == number % len(FRAMES) else training
            side.append(Prompt(question, frame))
    return training, heldout


def make_world(seed: int = 0) -> World:
    """Write all rows of the quickstart.

    Demonstrations are courteous about half of the time, more often when the person is kind (see `Frame`); pairs
    always prefer the courteous reply, whatever the person's tone. Both replies of a pair give the right answer.
    """
    rng = random.Random(seed)
    training, heldout = split_prompts(rng)
    asked_twice = [prompt for prompt in training for _ in range(DEMONSTRATIONS_PER_PROMPT)]
    rng.shuffle(asked_twice)
    return World(
        demonstrations=[demonstration(prompt, rng) for prompt in asked_twice],
        demonstrations_heldout=[demonstration(prompt, rng) for prompt in heldout],
        preferences=[_preference(prompt, rng) for prompt in rng.sample(training, TRAINING_PAIRS)],
        preferences_heldout=[_preference(prompt, rng) for prompt in heldout],
        prompts_heldout=[{"prompt": user(prompt)} for prompt in heldout],
        **make_kinds(training, seed),
    )


def write_world(world: World, folder: Path) -> dict[str, Path]:
    """Write each kind of row to `folder/<kind>.jsonl`.

    Returns:
        kind -> file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {kind: _write_lines(folder / f"{kind}.jsonl", rows) for kind, rows in world._asdict().items()}


def write_model(texts: Iterable[str], folder: Path, seed: int = 0) -> Path:
    """Train a tokenizer on `texts`, make a small Llama with random weights, and save both as one folder.

    Returns:
        `folder`, in Hugging Face format.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer of about 770 tokens, with a chat template; it can encode any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _preference(prompt: Prompt, rng: random.Random) -> dict[str, Any]:
    return {
        "prompt": user(prompt),
        "chosen": assistant(write_reply(prompt.question, COURTEOUS, rng)),
        "rejected": assistant(write_reply(prompt.question, RUDE, rng)),
    }


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
