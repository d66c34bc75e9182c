"""What scoring is compared with: plain Hugging Face models, one response at a time, written as loops."""

from __future__ import annotations

import random

import torch
from torch.overrides import TorchFunctionMode

from lit_align.core.batch import Example


class KeepFloat64(TorchFunctionMode):
    """Stops models from casting float64 to float32 inside, so that layouts can be compared to 1e-9.

    Norms, routers and softmaxes of Hugging Face models compute in float32 whatever their type.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        value = args[0] if args else None
        if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
            if func is torch.Tensor.float:
                return value
            if func in (torch.Tensor.to, torch.Tensor.type):
                args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def make_examples(vocabulary=264, seed=0):
    """Two pairs, four responses to one prompt, a multi-turn mask, and prompts that end differently."""
    rng = random.Random(seed)

    def tokens(count):
        return [rng.randrange(3, vocabulary) for _ in range(count)]

    def respond(row, prompt_length, lengths, **fields):
        prompt = tokens(prompt_length)
        ids = [prompt + tokens(length) for length in lengths]
        return Example(row, ids, [prompt_length] * len(ids), **fields)

    merged = respond(5, 17, [6, 9])
    merged.ids[1][16] = merged.ids[0][16] % (vocabulary - 3) + 3
    return [
        respond(1, 21, [9, 14]),
        respond(2, 6, [5, 11, 3, 8]),
        respond(3, 13, [7, 12], masks=[[1, 1, 0, 0, 1, 1, 1], [0] * 5 + [1] * 7]),
        respond(4, 1, [4]),
        merged,
    ]


def plain_logps(model, examples, score_prompts=False):
    """Log-probabilities of all scored tokens, [N], in the order of `build_rows`, and summed per response, [M]."""
    responses = [
        (ids, range(prompt, len(ids)), example.masks[k] if example.masks else [1] * (len(ids) - prompt))
        for example in examples
        for k, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True))
    ]
    if score_prompts:
        responses += [(e.ids[0], range(1, e.prompt_lengths[0]), [1] * (e.prompt_lengths[0] - 1)) for e in examples]
    tokens, sums = [], []
    for ids, positions, mask in responses:
        logps = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        scored = [logps[position - 1, ids[position]] for position, kept in zip(positions, mask, strict=True) if kept]
        tokens += scored
        sums.append(torch.stack(scored).sum())
    return torch.stack(tokens), torch.stack(sums)


def plain_rewards(model, examples):
    """Scores of all responses, [M]; for a head of K > 1 numbers [M, K]."""
    rows = [torch.tensor([ids]) for example in examples for ids in example.ids]
    scores = torch.cat([model(input_ids=row).logits for row in rows])
    return scores[:, 0] if scores.shape[1] == 1 else scores


def gradients(outputs, model):
    """Gradients of a fixed random combination of `outputs` [N], per trained parameter."""
    weights = torch.randn(len(outputs), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad((outputs * weights).sum(), parameters, allow_unused=True)
    return dict(zip(names, found, strict=True))


def assert_same_gradients(actual, expected, tolerance):
    """Each parameter's largest deviation is below `tolerance` times its largest gradient."""
    assert actual.keys() == expected.keys()
    for name, reference in expected.items():
        if reference is None:
            assert actual[name] is None or actual[name].abs().max() == 0, name
            continue
        error = (actual[name] - reference).abs().max()
        # Some gradients are zero but for rounding, such as those of key biases.
        assert error <= tolerance * max(float(reference.abs().max()), 1e-3), f"{name}: {error:.2e}"
