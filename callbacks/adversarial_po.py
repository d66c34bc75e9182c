"""Adversarial preference optimisation: reward model and policy take turns, each learning from the other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from lit_align.callbacks.regeneration import RegenerationCallback
from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import PairwiseRewardModule
from lit_align.judges.reward_model import RewardModelJudge
from lit_align.loops.game import Game
from lit_align.loops.live import LiveRound, answers, by_prompt
from lit_align.loops.pairs import AnswerFilter, Pairing, best_answer
from lit_align.loops.reward_training import RewardTraining
from lit_align.loops.store import Row


class AdversarialPO(RegenerationCallback):
    """A game of a reward model, which tells reference answers from the policy's, and the policy, which it then scores.

    Cheng et al., "Adversarial Preference Optimization: Enhancing Your Alignment via RM-LLM Game" (2023),
    https://arxiv.org/abs/2311.08045, the alternating training (algorithm number not checked). `data.train` are the
    policy's prompts; `human_pairs` are others, whose reference answers the policy never learns from. Both KL terms are
    there: the reward model keeps to people's pairs (`human_weight` of `AdversarialReward`), and the policy to its
    reference (beta of `DPO`), or to where the round began (few steps of `SFT`).

    With `SFT` the policy imitates the best of its answers (rejection sampling, as in the paper); with a method that
    learns from pairs, such as `DPO`, the best stands against the worst.

    A round's reward model is a run of its own in `rounds/round_<n>/reward_model`, by the first process while others
    wait, which the process group's timeout must allow; one that is killed goes on there. It needs room for a second
    model in training beside the policy.

    Differs: the game's pairs have a mean of their own in the loss, see `AdversarialReward`; unfinished and equal
    answers are left out and counted.

    Args:
        reward: the reward model's method with its settings, `AdversarialReward`.
        human_pairs: file, folder or hub name of pairs; their prompts are the reward model's. A column `gold` holds a
            reference answer; where there is none, the chosen one is.
        reward_samples: answers of the policy to each of the reward model's prompts.
        reward_prompts: prompts of the reward model in a round, drawn anew; None: all.
        reward_from: base: every round begins with the model that `reward` names; previous: with the last round's.
        reward_data: settings of the reward model's data, such as batch_size and max_length; others are the defaults.
        reward_trainer: settings of its trainer, such as max_epochs; max_epochs is 1 and gradient_clip_val 1.
        held_out_pairs: so many of the pairs of people are not learnt from; on them the reward model's accuracy is
            logged as `reward_accuracy`, which must not fall.
        samples: answers to each of the policy's prompts.
        **loop: settings of every loop, see `RegenerationCallback`.

    Raises:
        ConfigError: a setting is out of range.
    """

    teaches: ClassVar[frozenset[DataKind]] = frozenset({DataKind.DEMONSTRATIONS, DataKind.PAIRS})

    def __init__(
        self,
        reward: PairwiseRewardModule,
        human_pairs: str,
        reward_samples: int = 4,
        reward_prompts: int | None = None,
        reward_from: Literal["base", "previous"] = "base",
        reward_data: dict[str, Any] | None = None,
        reward_trainer: dict[str, Any] | None = None,
        held_out_pairs: int = 64,
        samples: int = 4,
        **loop: Any,
    ) -> None:
        super().__init__(**loop)
        if samples < 2 or reward_samples < 1 or held_out_pairs < 0:
            raise ConfigError(
                "the game needs a sample for the reward model, and two for the policy to choose from",
                got=f"reward_samples: {reward_samples}, samples: {samples}, held_out_pairs: {held_out_pairs}",
                fix="raise them",
            )
        training = RewardTraining(reward, reward_data or {}, reward_trainer or {}, self.seed)
        self.game = Game(training, human_pairs, reward_samples, reward_prompts, reward_from, held_out_pairs)
        self.samples = samples

    def depends_on(self) -> Any:
        """The reward model's settings, and how many answers there are."""
        return {"game": self.game.described(), "samples": self.samples}

    def make(self, round: LiveRound) -> list[Row]:
        """A reward model that knows the policy as it is; its favourites among the policy's answers."""
        reward = RewardModelJudge(str(self.game.reward_model(round, self.module)))
        self.game.examine(round, reward)
        prompts = round.prompts()
        candidates = round.candidates(prompts, self.samples)
        scores = round.scores(prompts, candidates, reward)
        reward.release()
        if self.module.data_kind is DataKind.PAIRS:
            rows = round.pairs(prompts, candidates, scores, Pairing())
        else:
            rows = round.step("best", lambda: self._best(round, prompts, candidates, scores))
        round.require(rows, "no answer can be learnt from", "raise max_new_tokens or samples")
        return rows

    def _best(self, round: LiveRound, prompts: list[Row], candidates: list[Row], scores: list[Row]) -> list[Row]:
        """The reward model's favourite among the answers to each prompt."""
        of, usable, rows = by_prompt(answers(candidates, scores)), AnswerFilter(), []
        for prompt in prompts:
            best = best_answer(usable.keep([row["answer"] for row in of[prompt["id"]]]))
            if best is not None:
                rows.append(round.demonstration(prompt, best, score=best.score))
        round.counts.update(usable.counts)
        return rows
