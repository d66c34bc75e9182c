"""W3, a bigram language model: 8 tokens, 6 places, a table of logits by the token before; token 3 good, token 7 bad."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.worlds.base import World, generators
from evidence.worlds.data import Labels, Lists, Pairs, Texts

TOKENS, PLACES = 8, 6
GOOD, BAD, FIRST = 3, 7, 0


class Bigram(World):
    """The policy is its logits [S, 8, 8]; responses are indices into a pool of sampled texts.

    Args:
        seeds: number of seeds.
        offset: the first seed.
    """

    def __init__(self, seeds: int, offset: int = 0) -> None:
        self.seeds = seeds
        self.generators = generators(seeds, offset)
        logits = [0.5 * torch.randn(TOKENS, TOKENS, generator=g, dtype=torch.float64) for g in self.generators]
        self.theta = torch.stack(logits)
        self.theta[..., BAD] += 0.5
        self.texts = torch.zeros(seeds, 0, PLACES, dtype=torch.long)

    def start(self) -> Tensor:
        """The reference's logits."""
        return self.theta.clone()

    def state(self, theta: Tensor) -> Tensor:
        """Log-probabilities [S, 8, 8] of the next token."""
        return theta.log_softmax(-1)

    def sample(self, number: int, state: Tensor | None = None) -> Tensor:
        """Texts [S, number, 6] of a policy; of the reference where None."""
        table = (self.state(self.theta) if state is None else state).exp()
        rows = []
        for seed, generator in enumerate(self.generators):
            token = torch.full((number,), FIRST)
            places = []
            for _ in range(PLACES):
                token = torch.multinomial(table[seed, token], 1, generator=generator)[:, 0]
                places.append(token)
            rows.append(torch.stack(places, 1))
        return torch.stack(rows)

    def filtered(self, number: int, accept) -> Tensor:
        """Texts [S, number, 6] of the reference for which `accept` holds.

        Args:
            number: texts per seed.
            accept: maps texts [S, N, 6] to [S, N] bool.
        """
        kept = [torch.zeros(0, PLACES, dtype=torch.long) for _ in range(self.seeds)]
        while min(len(texts) for texts in kept) < number:
            drawn = self.sample(4 * number)
            good = accept(drawn)
            kept = [torch.cat([have, new[ok]]) for have, new, ok in zip(kept, drawn, good, strict=True)]
        return torch.stack([texts[:number] for texts in kept])

    def keep(self, texts: Tensor) -> Tensor:
        """Put texts [S, N, 6] into the pool; their indices [N]."""
        first = self.texts.shape[1]
        self.texts = torch.cat([self.texts, texts], dim=1)
        return torch.arange(first, self.texts.shape[1])

    def _index(self, number: int) -> tuple[Tensor, Tensor]:
        seed = torch.arange(self.seeds).repeat_interleave(number)
        return seed, torch.zeros_like(seed)

    def labels(self, good: Tensor, bad: Tensor) -> Labels:
        """Desirable and undesirable texts, each [N] indices into the pool."""
        response = torch.cat([good, bad])
        label = (torch.arange(len(response)) < len(good)).repeat(self.seeds)
        return Labels(*self._index(len(response)), response.repeat(self.seeds), label)

    def lists(self, columns: list[Tensor]) -> Lists:
        """Lists of texts, each column [N] indices into the pool; the last one's score is 0, the others' 1."""
        responses = torch.stack(columns, 1).repeat(self.seeds, 1)
        scores = torch.ones(responses.shape, dtype=torch.float64)
        scores[:, -1] = 0
        return Lists(*self._index(len(columns[0])), responses, scores)

    def imitate(self, texts: Tensor) -> Texts:
        """Texts, [N] indices into the pool."""
        return Texts(*self._index(len(texts)), texts.repeat(self.seeds))

    def pairs(self, number: int, noise: bool = True) -> Pairs:
        """Pairs of samples of the reference, by Bradley-Terry, or by value without ties."""
        one, two = self.sample(8 * number), self.sample(8 * number)
        gap = (value(one) - value(two)).double()
        draws = torch.stack([torch.rand(8 * number, generator=g, dtype=torch.float64) for g in self.generators])
        wins = draws < gap.sigmoid() if noise else gap > 0
        usable = (one != two).any(-1) if noise else gap != 0
        pick = torch.stack([mask.nonzero()[:number, 0] for mask in usable])[..., None]
        chosen = torch.where(wins[..., None], one, two).gather(1, pick.expand(-1, -1, PLACES))
        rejected = torch.where(wins[..., None], two, one).gather(1, pick.expand(-1, -1, PLACES))
        return self.pair(self.keep(chosen), self.keep(rejected))

    def pair(self, chosen: Tensor, rejected: Tensor) -> Pairs:
        """Pairs of texts, each [N] indices into the pool."""
        seed, prompt = self._index(len(chosen))
        return Pairs(seed, prompt, chosen.repeat(self.seeds), rejected.repeat(self.seeds))

    # ------------------------------------------------------------------ scoring

    def tokens(self, state: Tensor, seed: Tensor, response: Tensor) -> Tensor:
        """Log-probabilities [..., 6] of texts' tokens."""
        text = self.texts[seed, response]
        return state[seed[..., None], before(text), text]

    def score(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """Log-probabilities [B] of texts."""
        return self.tokens(state, seed, response).sum(-1)

    def lengths(self, seed: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
        """6 each."""
        return torch.full(response.shape, float(PLACES), dtype=torch.float64)

    def next_token(self, state: Tensor, seed: Tensor, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, 6, 8] at every place, and the tokens."""
        text = self.texts[seed, response]
        return state[seed[:, None], before(text)], text

    # ------------------------------------------------------------------ exact measures

    def marginals(self, state: Tensor) -> Tensor:
        """Probabilities [S, 7, 8] of the tokens at each place, from the start token on."""
        here = torch.zeros(self.seeds, TOKENS, dtype=torch.float64)
        here[:, FIRST] = 1
        places = [here]
        for _ in range(PLACES):
            here = torch.einsum("sv,svw->sw", here, state.exp())
            places.append(here)
        return torch.stack(places, 1)

    def share(self, state: Tensor, token: int) -> Tensor:
        """Mean share of a token among those of a text, [S]."""
        return self.marginals(state)[:, 1:, token].mean(1)

    def value(self, state: Tensor) -> Tensor:
        """Mean number of good minus bad tokens in a text, [S]."""
        return PLACES * (self.share(state, GOOD) - self.share(state, BAD))

    def entropy(self, state: Tensor) -> Tensor:
        """Entropy of texts, [S], nats."""
        per_token = -(state.exp() * state).sum(-1)
        return torch.einsum("stv,sv->s", self.marginals(state)[:, :-1], per_token)


def before(text: Tensor) -> Tensor:
    """The token before each place, [..., 6]."""
    return torch.cat([torch.full_like(text[..., :1], FIRST), text[..., :-1]], dim=-1)


def value(text: Tensor) -> Tensor:
    """Good minus bad tokens of texts [..., 6]."""
    return (text == GOOD).sum(-1) - (text == BAD).sum(-1)
