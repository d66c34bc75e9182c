"""Online DPO: every optimiser step learns from answers that the policy has just written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lightning.pytorch import LightningModule, Trainer

from lit_align.callbacks._judged import JudgedLoop
from lit_align.core.errors import ConfigError
from lit_align.core.ranges import positive
from lit_align.judges.base import Judge
from lit_align.loops.guards import Limits
from lit_align.loops.live import LiveRound
from lit_align.loops.pairs import Pairing
from lit_align.loops.store import TRAIN, RoundFolder, Row, digest, round_folders, run_of

if TYPE_CHECKING:
    from lit_align.data.module import PreferenceDataModule

_LIMITS = Limits(diversity=0.5, longer_wins=0.5, ties=1.0, ties_stop=1.0, identical_stop=1.0)
"""The answers of one step are few: only what is far off is an alarm."""


class OnlineDPO(JudgedLoop):
    """Online AI feedback: two answers of the policy to each prompt of a step, judged, and a step on these pairs.

    Guo et al., "Direct Language Model Alignment from Online AI Feedback" (2024), https://arxiv.org/abs/2402.04792,
    Algorithm 1. For `DPO`, `IPO`, `SLiCHF` and every other method that learns from pairs. A round is a step: it takes
    as many prompts as a step has rows, and optimiser and schedule span the run.

    Differs: ties, equal and unfinished answers make no pair, and are counted, so that some steps have fewer rows; where
    no pair is left the same prompts are answered again.

    Args:
        judge: see `JudgedLoop`; `LLMJudge` asks in both orders, and its `template` says what is wanted of answers.
        steps: optimiser steps of the run.
        samples: answers to each prompt; of more than two the best stands against the worst.
        sample_every: steps whose answers are written at once.
        passes: steps that each answer is used for.
        attempts: how often prompts are answered until there is a pair.
        temperature: of the answers; 0.9 is the paper's.
        reference: "initial" as in the paper.
        missing_eos_penalty: see `JudgedLoop`; a large one makes unfinished answers lose.
        keep_judge: leave the judge's model in memory while the policy is trained; it would be loaded for every step.
        keep_rounds: folders of rounds that stay beside the first one and those that a checkpoint needs; None: all.
        save_every_rounds: see `RegenerationCallback`.
        keep_starts: see `RegenerationCallback`.
        part_size: see `RegenerationCallback`; None: 64, or the prompts that one process contributes to a round where
            they are fewer, so that every process judges.
        guards: see `RegenerationCallback`; None: wide limits, since the answers of a step are few.
        stop_on_alarm: see `RegenerationCallback`.
        **loop: settings of every loop, see `RegenerationCallback`.
    """

    def __init__(
        self,
        judge: Judge,
        steps: int = 1000,
        samples: int = 2,
        sample_every: int = 1,
        passes: int = 1,
        attempts: int = 4,
        temperature: float = 0.9,
        reference: Literal["previous", "initial"] = "initial",
        missing_eos_penalty: float | None = None,
        keep_judge: bool = True,
        keep_rounds: int | None = None,
        save_every_rounds: int = 50,
        keep_starts: bool = False,
        part_size: int | None = None,
        guards: Limits | None = None,
        stop_on_alarm: bool = False,
        **loop: Any,
    ) -> None:
        given = {"steps": steps, "sample_every": sample_every, "passes": passes, "attempts": attempts}
        for name, number in given.items():
            positive(name, number)
        super().__init__(
            judge,
            samples,
            missing_eos_penalty,
            rounds=-(-steps // (sample_every * passes)),
            epochs_per_round=passes,
            temperature=temperature,
            reference=reference,
            save_every_rounds=save_every_rounds,
            guards=guards or _LIMITS,
            fresh_optimizer=False,
            schedule="run",
            keep_starts=keep_starts,
            stop_on_alarm=stop_on_alarm,
            **({} if part_size is None else {"part_size": part_size}),
            **loop,
        )
        if self.samples < 2:
            raise ConfigError("a pair needs two answers", got=f"samples: {samples}", fix="give 2 or more")
        self.own_parts = part_size is None
        self.sample_every, self.attempts, self.keep_judge = sample_every, attempts, keep_judge
        self.keep_rounds = None if keep_rounds is None else int(positive("keep_rounds", keep_rounds))
        if self.keep_rounds is not None and self.reuse != "none":
            raise ConfigError(
                "rounds that are learnt from again cannot be deleted",
                got=f"keep_rounds: {keep_rounds}, reuse: {self.reuse}",
                fix="leave keep_rounds out, or set reuse: none",
            )
        self.pairing = Pairing(keep_unfinished=self.keep_unfinished)
        self._history = ""

    def depends_on(self) -> Any:
        """The judge, and how often it is asked."""
        return super().depends_on() | {"attempts": self.attempts}

    def make(self, round: LiveRound) -> list[Row]:
        """Two answers of the policy to each prompt, and the judge's choice."""
        prompts, rows, attempt = round.prompts(), list[Row](), 0
        while not rows and attempt < self.attempts:
            attempt += 1
            again = f"_{attempt}" if attempt > 1 else ""
            candidates = round.candidates(prompts, self.samples, name=f"candidates{again}")
            scores = self.judged(round, prompts, candidates, suffix=again)
            rows = round.pairs(prompts, candidates, scores, self.pairing, name=f"pairs{again}")
        round.require(rows, "the judge tells no two answers apart", "give a finer judge, more samples, or stop here")
        return rows

    # ---------------------------------------------------------------- many small rounds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take as many prompts as make a step."""
        super().setup(trainer, pl_module, stage)
        data = cast("PreferenceDataModule | None", trainer.datamodule)
        if stage != "fit" or data is None:
            return
        if data.drop_last or data.max_tokens_per_batch is not None:
            raise ConfigError(
                "a step of OnlineDPO learns from the pairs that it has, however many or long they are",
                got=f"data.drop_last: {data.drop_last}, data.max_tokens_per_batch: {data.max_tokens_per_batch}",
                fix="set data.batch_size, and leave these out",
            )
        if self.prompts_per_round is None:
            rows = data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
            self.prompts_per_round = rows * self.sample_every
            if self.own_parts:
                self.part_size = min(self.part_size, self.prompts_per_round // trainer.world_size)

    def begin_round(self, trainer: Trainer, data: PreferenceDataModule) -> Path | None:
        """As every loop does; then remove the folders that nobody needs."""
        new = self.epochs_done // self.epochs_per_round + 1 != self.round
        file = super().begin_round(trainer, data)
        if new and file is not None:
            folder = RoundFolder(file.parent)
            self._history = digest(self._history, folder.manifest["inputs"], folder.steps[TRAIN]["sha256"])
            if self.keep_rounds is not None and trainer.is_global_zero:
                self._prune(trainer, folder, self.keep_rounds)
        return file

    def state_dict(self) -> dict[str, Any]:
        """With what the rounds so far were, whose folders may be gone."""
        return super().state_dict() | {"history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(state_dict)
        self._history = state_dict["history"]

    def before(self, folder: RoundFolder) -> list[str]:
        """What the rounds were so far."""
        return [self._history]

    def _prune(self, trainer: Trainer, folder: RoundFolder, keep: int) -> None:
        """Remove old rounds, but the first, which guards compare with, and those that a checkpoint lies in."""
        saved = [
            int(path.stem.partition("=")[2])
            for callback in trainer.checkpoint_callbacks
            for path in Path(getattr(callback, "dirpath", None) or "none").glob("step=*.ckpt")
        ]
        left = [old for old in round_folders(run_of(folder)) if 1 < old.number <= folder.number - keep]
        for old in left:
            after = RoundFolder.of(run_of(old), old.number + 1).manifest.get("step", trainer.global_step)
            if saved and after <= min(saved):
                shutil.rmtree(old.path)
