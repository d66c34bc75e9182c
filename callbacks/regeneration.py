"""Loops in which the model makes its own training data, round by round, inside one run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_align.core.batch import DataKind
from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.core.ranges import positive
from lit_align.core.steps import OptimizerStepCallback
from lit_align.evaluation.alarms import Alarm, record_alarm
from lit_align.judges.base import PointwiseJudge
from lit_align.loops.guards import Limits
from lit_align.loops.judging import described
from lit_align.loops.live import LiveRound
from lit_align.loops.maker import Maker, left_before
from lit_align.loops.replay import Reuse
from lit_align.loops.revision import check_all_are_made, check_learnt, from_beginning
from lit_align.loops.settings import RATE, check_per_round, of_round, restart_schedules
from lit_align.loops.store import TRAIN, RoundFolder, Row, digest, sha256
from lit_align.loops.watch import Seen, Watch
from lit_align.loops.writer import Sampling
from lit_align.rollouts.engine import Engine

if TYPE_CHECKING:
    from lit_align.core.forward import Scorer
    from lit_align.core.module import AlignmentModule
    from lit_align.data.module import PreferenceDataModule

_AT_REST = 0.02
"""Mean margin of rewards from which on policy and reference are not the same; rounding stays below."""


class RegenerationCallback(OptimizerStepCallback, ABC):
    """Makes the training data of each round out of the policy as it is when the round begins.

    A subclass says how, in `make`; everything else is here. `data.train` is what the loop begins with (its prompts, or
    its demonstrations), and the rows of a round are in `rounds/round_<n>/train.jsonl` of the run folder, beside all
    that they were made of. A process that is killed anywhere, while generating, judging, writing or training, goes on
    with `--ckpt_path last` from what is there, with the same rows and weights as if it had not been killed.

    Checkpoints are written at the end of every round; `rounds/round_<n>/start.ckpt` is the one that a round began with.

    Args:
        rounds: how many; they decide how long the run is, in place of `trainer.max_epochs`.
        epochs_per_round: passes over the rows of a round.
        prompts_per_round: rows of `data.train` that a round takes, each once before any is taken again; None: all.
        max_new_tokens: longest completion, tokens.
        temperature: 1 samples from the policy; 0 takes the likeliest token each time.
        top_p: sample from the likeliest tokens that have this probability together.
        top_k: sample from so many of the likeliest tokens; None: from all.
        min_p: sample from tokens that have at least this share of the likeliest one's probability.
        stop: strings that end a completion.
        batch_size: completions that are written at a time, on each process.
        seed: of all that is drawn.
        reference: "previous": the reference becomes the policy of each round's beginning; "initial": it stays.
        reuse: rows that a round learns from besides its own: none, those of the round before, or of all.
        fresh_optimizer: forget the optimiser's moments when a round begins.
        schedule: what the default schedule of the learning rate spans: every round, or the run. One of your own goes
            on from round to round.
        part_size: most prompts of which one process makes a part; the data do not depend on how many processes there
            are. The policy writes in parts of one batch, or of a few, which processes share evenly. Judges, and engines
            that batch by themselves, such as vLLM, get whole parts: with few prompts and many processes, take less.
        keep_starts: keep the checkpoint that each round began with, so that the round can be made again.
        save_every_rounds: rounds between checkpoints; rounds since the last one are found again, or made again alike.
        per_round: settings of the method from a round on, as `{3: {beta: 5.0, learning_rate: 1.0e-7}}`.
        engine: what writes in place of the policy itself, such as `VLLMEngine`; it gets the weights of every round. Not
            for policies that are sharded.
        guards: from where on figures of a round are an alarm; None: the usual limits.
        stop_on_alarm: end the run where a guard says that a round, from the second on, should not be trained on.
        held_out_judge: a judge that the data are not made with. Where its scores fall while those of the judge rise,
            the policy has learnt to please the judge.
        held_out_answers: how many answers of each round it is asked about.

    Raises:
        ConfigError: a setting is out of range.
    """

    seed_kind: ClassVar[DataKind] = DataKind.PROMPTS
    """What `data.train` is read as; prompts: anything that has prompts."""
    teaches: ClassVar[frozenset[DataKind]] = frozenset({DataKind.PAIRS})
    """What the rows of a round are, and so what methods may learn from them."""
    same_judge: ClassVar[bool] = True
    """Whether answers of all rounds are scored by one judge, so that their scores can be compared."""
    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.DATA_REGENERATION, Capability.REFERENCE_REFRESH})

    def __init__(
        self,
        rounds: int = 3,
        epochs_per_round: int = 1,
        prompts_per_round: int | None = None,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        stop: list[str] | None = None,
        batch_size: int = 8,
        seed: int = 0,
        reference: Literal["previous", "initial"] = "previous",
        reuse: Reuse = "none",
        fresh_optimizer: bool = True,
        schedule: Literal["round", "run"] = "round",
        part_size: int = 64,
        keep_starts: bool = True,
        save_every_rounds: int = 1,
        per_round: dict[int, dict[str, float]] | None = None,
        engine: Engine | None = None,
        guards: Limits | None = None,
        stop_on_alarm: bool = True,
        held_out_judge: PointwiseJudge | None = None,
        held_out_answers: int = 64,
    ) -> None:
        for name, number in {
            "rounds": rounds,
            "epochs_per_round": epochs_per_round,
            "prompts_per_round": prompts_per_round,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "part_size": part_size,
            "save_every_rounds": save_every_rounds,
        }.items():
            if number is not None:
                positive(f"{type(self).__name__}.{name}", number)
        self.rounds, self.epochs_per_round, self.prompts_per_round = rounds, epochs_per_round, prompts_per_round
        self.max_new_tokens = max_new_tokens
        self.sampling = Sampling(max_new_tokens, temperature, top_p, top_k, min_p, tuple(stop or ()))
        self.batch_size, self.seed, self.part_size = batch_size, seed, part_size
        self.reference, self.reuse = reference, reuse
        self.fresh_optimizer, self.schedule, self.keep_starts = fresh_optimizer, schedule, keep_starts
        self.save_every_rounds = save_every_rounds
        self.per_round, self.engine = per_round or {}, engine
        # Before it is used: models that it will load are not part of what it is.
        self.engine_is = described(engine)
        self.watch, self.stop_on_alarm = Watch(guards, held_out_judge, held_out_answers), stop_on_alarm
        self.epochs_done = 0
        """Epochs that were trained to their end."""
        self.round = 0
        """The round that is trained on; 0: none yet."""
        self.stretch: tuple[int, float] = (0, 1)
        """First optimiser step and length of what the schedule spans; see `core.steps.within_stretch`."""
        self.module: AlignmentModule
        """What is trained; there while a round is made."""
        self.stopped = False
        """Whether somebody has stopped the run inside a round."""
        self.ended = False
        """Whether a guard has ended the run."""
        self._data = ""
        self._begins = False
        self._seen: Seen | None = None
        self._maker = Maker(self)

    # ---------------------------------------------------------------- the algorithm

    @abstractmethod
    def make(self, round: LiveRound) -> list[Row]:
        """The rows of a round: the paper's algorithm box.

        All processes are in here together. What is drawn or judged is a step of the round, so that it is made once.

        Args:
            round: with the verbs of `LiveRound`.

        Returns:
            Rows of its last step, in the columns of `data.train` of an ordinary run.
        """

    def depends_on(self) -> Any:
        """What else the rows of a round depend on, as JSON values; what is to be made anew when it changes."""
        return None

    def before(self, folder: RoundFolder) -> list[str]:
        """What the rounds before left that `folder`'s may read."""
        return left_before(folder)

    # ---------------------------------------------------------------- a run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over how long the run is, and tell the module that its reference will change."""
        if stage != "fit":
            return
        module = cast("AlignmentModule", pl_module)
        if module.data_kind not in self.teaches:
            raise ConfigError(
                f"{type(self).__name__} makes {' or '.join(sorted(kind.value for kind in self.teaches))}",
                got=f"{type(module).__name__}, which learns from {module.data_kind.value}",
                fix="use a method that learns from these, such as DPO from pairs and SFT from demonstrations",
            )
        epochs = self.rounds * self.epochs_per_round
        if trainer.max_epochs not in (None, -1, 1, epochs):
            raise ConfigError(
                f"{type(self).__name__} decides how long the run is",
                got=f"trainer.max_epochs: {trainer.max_epochs}; rounds: {self.rounds}, "
                f"epochs_per_round: {self.epochs_per_round}",
                fix="leave trainer.max_epochs out",
            )
        trainer.fit_loop.max_epochs = epochs
        check_per_round(module, self.per_round, self.rounds)
        if hasattr(self.engine, "sync") and isinstance(trainer.strategy, FSDP2Strategy):
            raise ConfigError(
                "an engine with weights of its own cannot follow a policy that is sharded",
                got=f"{type(self.engine).__name__}, trainer.strategy: fsdp2",
                fix="use trainer.strategy: ddp, or leave engine out: the policy then writes itself",
            )
        if self.engine is not None and not hasattr(self.engine, "sync"):
            name = f"{type(self).__name__}.engine: {type(self.engine).__name__}"
            rank_zero_warn(
                f"{name} takes no weights: every round is written by "
                "the model that it was given, and not by the policy. Leave engine out to have the policy write."
            )
        # A round's data are read when its first epoch begins.
        trainer.reload_dataloaders_every_n_epochs = 1
        if self.reference == "previous" and module.needs_reference:
            module.reference_will_refresh = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a reference that would have to change, and cannot."""
        reference = cast("AlignmentModule", pl_module).reference
        if self.reference == "previous" and reference is not None and not reference.can_refresh:
            raise ConfigError(
                f"{type(self).__name__} makes the policy of each round the reference of the next, and this one cannot "
                "change",
                got=f"reference: {type(reference).__name__}",
                fix="set model.reference: auto, or the loop's reference: initial",
            )

    def begin_round(self, trainer: Trainer, data: PreferenceDataModule) -> Path | None:
        """The rows to learn from now: those of the round that is under way, or of the next one, which is made.

        Returns:
            Their file; None where the loop ends here.
        """
        number = self.epochs_done // self.epochs_per_round + 1
        run, module = _run_folder(trainer), cast("AlignmentModule", trainer.lightning_module)
        if self.stopped:
            raise ConfigError(
                "the checkpoint is from where the run was stopped inside a round, which cannot be gone on with",
                got=f"round {number}",
                fix=f"{from_beginning(RoundFolder.of(run, number))}, or from a checkpoint before the stop",
            )
        if number > self.rounds:
            # Of a checkpoint from the end of the run: Lightning asks for data before it sees that nothing is left.
            check_all_are_made(run, self.rounds)
            self.ended = True
            return None
        folder = RoundFolder.of(run, number)
        if number == self.round:
            check_learnt(folder, self._data)
            self._say_if_changed(folder, module)
        else:
            self.module = module
            self._seen = self._maker.make(trainer, data, folder)
            if self.reference == "previous" and number > 1 and module.reference is not None:
                module.reference.refresh(cast("Scorer", module.policy), 1.0)
            self.ended = self.stop_on_alarm and self._seen.stop is not None
            if self.ended:
                return None
            self.round, self._data, self._begins = number, sha256(folder.file(TRAIN)), True
        self._set_method(trainer)
        return folder.file(TRAIN)

    @property
    def reports(self) -> bool:
        """Whether it is said of the present round what was read of it: once for every checkpoint."""
        return (self.round - 1) % self.save_every_rounds == 0

    def begin_training(self, trainer: Trainer, micro_batches: int) -> None:
        """Start the schedule and the optimiser anew, where a round begins."""
        if not self._begins:
            return
        self._begins = False
        limit = trainer.limit_train_batches
        batches = min(micro_batches, limit) if isinstance(limit, int) else int(micro_batches * limit)
        steps = self.epochs_per_round * -(-batches // trainer.accumulate_grad_batches)
        # How long later rounds are is known when they are made.
        start, total = trainer.global_step, steps * (self.rounds - self.round + 1)
        self.stretch = (start, steps) if self.schedule == "round" else (0, start + total)
        if trainer.max_steps != -1:
            self.stretch = (self.stretch[0], min(self.stretch[1], trainer.max_steps - self.stretch[0]))
        if self.round > 1 and self.fresh_optimizer:
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
        restart_schedules(trainer, of_round(self.per_round, self.round).get(RATE))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was seen of a round that begins; not before, since a resumed run first cuts its files back."""
        seen, self._seen = self._seen, None
        if seen is None:
            return
        for logger in trainer.loggers:
            logger.log_metrics(seen.metrics, step=trainer.global_step)
        for alarm in [*seen.alarms, *([seen.stop] if seen.stop is not None else [])]:
            rank_zero_warn(f"{alarm.words} {alarm.advice}")
            record_alarm(trainer.loggers, alarm)

    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at a round's first step, where the policy is still its own reference."""
        record = cast("AlignmentModule", pl_module).last_step
        first = self.schedule == "round" and trainer.global_step == self.stretch[0] + 1
        if not first or self.reference != "previous" or record is None:
            return
        margin = record.metrics.get("rewards/margins", 0.0)
        if abs(margin) > _AT_REST:
            words = (
                f"In the first step of round {self.round} the policy and its reference should be the same, and the "
                f"mean margin of rewards is {margin:.3g}."
            )
            alarm = Alarm(trainer.global_step, "loop/reference", words, "Turn dropout off; look at model.reference.")
            rank_zero_warn(f"{alarm.words} {alarm.advice}")
            record_alarm(trainer.loggers, alarm)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch, and ask for a checkpoint where rounds end: the next one is made of its weights."""
        if self.ended:
            return
        if not trainer.is_last_batch:
            # Somebody, such as EarlyStopping, has stopped the run. Lightning takes the epoch to be over.
            self.stopped = True
            return
        self.epochs_done += 1
        if self.epochs_done % (self.epochs_per_round * self.save_every_rounds) == 0:
            for callback in trainer.checkpoint_callbacks:
                if hasattr(callback, "request"):
                    callback.request()

    def state_dict(self) -> dict[str, Any]:
        """Which round is under way, and which rows it learns from."""
        return {
            "epochs_done": self.epochs_done,
            "epochs_per_round": self.epochs_per_round,
            "round": self.round,
            "stopped": self.stopped,
            "data": self._data,
            "stretch": list(self.stretch),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ConfigError: its rounds were longer or shorter.
        """
        if state_dict["epochs_per_round"] != self.epochs_per_round:
            raise ConfigError(
                "rounds of another length cannot be gone on with",
                got=f"epochs_per_round: {state_dict['epochs_per_round']} then, {self.epochs_per_round} now",
                fix="use the former value",
            )
        self.epochs_done, self.round = state_dict["epochs_done"], state_dict["round"]
        self._data, self.stopped = state_dict["data"], state_dict["stopped"]
        self.stretch = (state_dict["stretch"][0], state_dict["stretch"][1])

    def _say_if_changed(self, folder: RoundFolder, module: AlignmentModule) -> None:
        """Warn where rows that are learnt from were made with other settings."""
        now = digest(self._maker.settings(module))
        if folder.manifest.get("settings", now) != now:
            rank_zero_warn(
                f"{type(self).__name__}: settings were changed inside round {folder.number}, whose rows are made; they "
                f"hold from the next round on. To make this one again, {from_beginning(folder)}."
            )

    def _set_method(self, trainer: Trainer) -> None:
        """Give the method the settings of the round; a checkpoint holds none."""
        for name, value in of_round(self.per_round, self.round).items():
            if name != RATE:
                setattr(trainer.lightning_module, name, value)


def _run_folder(trainer: Trainer) -> Path:
    """Where the rounds are; those of a trial are no part of the run."""
    run = Path(trainer.default_root_dir)
    return run / "fast_dev_run" if trainer.fast_dev_run else run
