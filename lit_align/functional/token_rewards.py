"""Rewards of single tokens: how a response's implicit reward is spread over it.

Rafailov et al. 2024, "From r to Q*: Your Language Model is Secretly a Q-Function", https://arxiv.org/abs/2404.12358.
They are known up to a potential only (see `shaped_rewards`): tokens of one text compare, those of two prompts do not.
"""

from __future__ import annotations

from torch import Tensor


def token_rewards(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Implicit reward of each token: beta times its log-ratio. Over a response they add up to the response's reward.

    Args:
        policy: [N] log-probabilities of tokens, nats.
        reference: [N], the same under the reference.
        beta: scale of the rewards, per nat.

    Returns:
        [N].
    """
    return beta * (policy - reference)


def shaped_rewards(rewards: Tensor, potentials: Tensor, lengths: Tensor) -> Tensor:
    """Rewards that prefer the same responses, with another share for each token (Ng, Harada and Russell 1999).

    A token gets what its potential has risen by since the token before it. Potentials are 0 before the first token and
    after the last one, so that the sum over a response stays as it is. They have to come from elsewhere, as from a
    value model: if they were what remains of a response's own rewards, its first token would get all of it.

    Args:
        rewards: [N], token by token, response after response.
        potentials: [N], of the text up to and with each token, in units of the rewards; that of a response's last
            token is taken as 0.
        lengths: [M] int64, tokens of each response, above 0.

    Returns:
        [N].
    """
    inner = potentials.index_fill(0, lengths.cumsum(0) - 1, 0.0)
    # The potential before a response's first token is that after the last one of the response before it: 0.
    return rewards + inner - inner.roll(1)
