"""Canonical rows, and what the tokeniser makes of them, in the words of the tests."""

from __future__ import annotations

from lit_align.core.batch import DataKind, Example
from lit_align.data.canonical import CanonicalRow
from lit_align.data.render import Renderer
from lit_align.data.tokenise import Tokeniser
from tests.data.reading import assistant, user

PAIRS, SFT = DataKind.PAIRS, DataKind.DEMONSTRATIONS
MULTI_TURN = (user("a"), assistant("b1"), user("c"), assistant("d1"))
CORPUS = ["the quick brown fox jumps over the lazy dog", "what is the capital of france", "hello world"] * 20


def pair(prompt, chosen, rejected, row=1, **more):
    return CanonicalRow(row, prompt, [chosen, rejected], pairs=[(0, 1)], **more)


def chat_pair(prompt="Hi", chosen="Yes.", rejected="No.", **more):
    return pair([user(prompt)], [assistant(chosen)], [assistant(rejected)], **more)


def demonstration(*messages, **more):
    return CanonicalRow(1, "", [], messages=list(messages), **more)


def make(tokenizer, kind=PAIRS, **settings):
    names = ("system_prompt", "chat_template_kwargs", "train_on", "as_chat", "separator")
    rendering = {name: settings.pop(name) for name in names if name in settings}
    renderer = Renderer(tokenizer, chat_template=tokenizer.chat_template, **rendering)
    return Tokeniser(tokenizer, kind, renderer=renderer, **{"max_length": 500, **settings})


def completions(example: Example, tokenizer) -> list[str]:
    return [tokenizer.decode(ids[n:]) for ids, n in zip(example.ids, example.prompt_lengths, strict=True)]


def prompts(example: Example, tokenizer) -> list[str]:
    return [tokenizer.decode(ids[:n]) for ids, n in zip(example.ids, example.prompt_lengths, strict=True)]


def scored(example: Example, tokenizer) -> str:
    """What is learnt of the first response; masked stretches as |."""
    ids, start = example.ids[0], example.prompt_lengths[0]
    mask = [1] * (len(ids) - start) if example.masks is None else example.masks[0]
    assert len(mask) == len(ids) - start
    pieces, run = [], []
    for token, on in zip(ids[start:], mask, strict=True):
        if on:
            run.append(token)
        elif run:
            pieces.append(tokenizer.decode(run))
            run = []
    return "|".join([*pieces, tokenizer.decode(run)] if run else pieces)


def total(tokeniser, event):
    return tokeniser.report.events[event].total
