"""The making of a round: all that stands around a paper's algorithm box, from the beginning's digest to the figures."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.core.gathering import gathered
from lit_align.loops.judging import described
from lit_align.loops.live import LiveRound, Means
from lit_align.loops.ranks import Ranks
from lit_align.loops.replay import Reuse, mix_rounds
from lit_align.loops.revision import exported, keep_start, set_aside_rounds_after
from lit_align.loops.round import known_by
from lit_align.loops.source import Seed
from lit_align.loops.store import TRAIN, RoundFolder, Row, digest, run_of
from lit_align.loops.watch import Seen, Watch
from lit_align.loops.weights import reference_digest, weights_digest
from lit_align.loops.writer import Sampling, Writer
from lit_align.rollouts.engine import Engine
from lit_align.rollouts.hf_engine import HFEngine

if TYPE_CHECKING:
    from lit_align.core.forward import Scorer
    from lit_align.core.module import AlignmentModule
    from lit_align.data.module import PreferenceDataModule

PROMPTS_OF_A_TRIAL = 8
"""Rows of the seed that `trainer.fast_dev_run` takes."""


class Loop(Protocol):
    """What says how rounds are made: `RegenerationCallback`, where the settings are explained."""

    seed_kind: ClassVar[DataKind]
    same_judge: ClassVar[bool]
    sampling: Sampling
    seed: int
    prompts_per_round: int | None
    batch_size: int
    part_size: int
    reuse: Reuse
    keep_starts: bool
    engine: Engine | None
    engine_is: Any
    watch: Watch

    def make(self, round: LiveRound) -> list[Row]:
        """The rows of a round."""
        ...

    def depends_on(self) -> Any:
        """What else they depend on."""
        ...

    def before(self, folder: RoundFolder) -> list[str]:
        """What the rounds before left."""
        ...


class Maker:
    """Makes the rounds of a loop, as far as they are not there.

    Args:
        loop: says how.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._ranks: Ranks | None = None
        self._seed: Seed | None = None
        self._reference: list[str | None] = []

    def make(self, trainer: Trainer, data: PreferenceDataModule, folder: RoundFolder) -> Seen:
        """Make the rows of a round with the policy as it is; all processes together.

        Returns:
            What was seen of them.
        """
        module = cast("AlignmentModule", trainer.lightning_module)
        ranks = self._ranks = self._ranks or Ranks.of_processes()
        seed = self._seed = self._seed or Seed(data.sets, self.loop.seed_kind)
        weights, settings = weights_digest(module.policy), self.settings(module)
        reference = self._digest_of(module)
        inputs = digest(settings, reference, seed.fingerprint, module.policy_name, weights, self.loop.before(folder))
        ranks.wait()
        if ranks.is_first:
            self._begin(trainer, folder, inputs, weights, digest(settings))
        ranks.wait()
        round = self._round(trainer, data, folder, inputs, seed)
        engine = round.means.writer.engine
        if hasattr(engine, "sync"):
            # Even where all steps are there: any of them may turn out to have been made of something else.
            engine.sync(exported(module, data.tokenizer, folder, ranks))
        with ExitStack() as stack:
            stack.enter_context(known_by(folder))
            # A judge that draws random numbers would else change the training after it, unless its step is there.
            stack.enter_context(isolate_rng())
            stack.enter_context(gathered(module.policy))
            rows = self.loop.make(round)
            self.loop.watch.held_out(round)
            round.step(TRAIN, lambda: self._mixed(rows, round), reuse=self.loop.reuse)
            seen = self.loop.watch.look(round, rows, trainer.global_step, comparable=self.loop.same_judge)
        if ranks.is_first:
            self._end(data, folder, seed)
        ranks.wait()
        return seen

    def settings(self, module: AlignmentModule) -> dict[str, Any]:
        """What the rows of a round depend on, of the settings."""
        return {
            "loop": type(self.loop).__name__,
            "sampling": self.loop.sampling._asdict(),
            "seed": self.loop.seed,
            "prompts_per_round": self.loop.prompts_per_round,
            "engine": self.loop.engine_is,
            "reference": described(module.reference_choice),
            "more": self.loop.depends_on(),
        }

    def _digest_of(self, module: AlignmentModule) -> str | None:
        """What tells a reference apart that is a model of its own, and so stays the same: it is looked at once."""
        self._reference = self._reference or [reference_digest(module.reference)]
        return self._reference[0]

    def _begin(self, trainer: Trainer, folder: RoundFolder, inputs: str, weights: str, settings: str) -> None:
        """Prepare the folder; what was made of another beginning is set aside."""
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.clean()
        if folder.manifest.get("inputs", inputs) != inputs:
            set_aside_rounds_after(run_of(folder), folder.number)
        keep_start(folder, weights, _last_checkpoint(trainer) if self.loop.keep_starts else None)
        folder.note(
            round=folder.number,
            loop=type(self.loop).__name__,
            step=trainer.global_step,
            max_new_tokens=self.loop.sampling.max_new_tokens,
            policy=weights,
            inputs=inputs,
            settings=settings,
        )

    def _round(
        self, trainer: Trainer, data: PreferenceDataModule, folder: RoundFolder, inputs: str, seed: Seed
    ) -> LiveRound:
        """The round, with the means to make it."""
        loop, policy = self.loop, cast("Scorer", cast("AlignmentModule", trainer.lightning_module).policy)
        engine = loop.engine or HFEngine.of(policy, data.tokenizer, batch_size=loop.batch_size)
        writer = Writer(engine, data.tokenizer, data.sets, loop.seed, trainer.precision_plugin.forward_context)
        most = PROMPTS_OF_A_TRIAL if trainer.fast_dev_run else None
        means = Means(seed.rows, writer, loop.sampling, loop.seed, most or loop.prompts_per_round, most)
        return LiveRound(folder, inputs, means, self._ranks, loop.part_size)

    def _end(self, data: PreferenceDataModule, folder: RoundFolder, seed: Seed) -> None:
        """Report the seed, once, and clean up."""
        if seed.report.read and data.reports.get("seed") is not seed.report:
            data.report_seed(seed.report)
        # Of a step that a process was killed right after.
        folder.forget_parts()

    def _mixed(self, rows: list[Row], round: LiveRound) -> list[Row]:
        """The round's own rows, and those of earlier rounds that it uses again."""
        reuse = self.loop.reuse
        first = {"none": round.number, "previous": max(1, round.number - 1), "all": 1}[reuse]
        earlier = [RoundFolder.of(run_of(round.folder), number) for number in range(first, round.number)]
        # As they were learnt from: somebody may have edited them.
        learnt = [[row for row in of.verified(TRAIN) if row.get("round", of.number) == of.number] for of in earlier]
        own = [{**row, "round": row.get("round", round.number)} for row in rows]
        mixed = mix_rounds([*learnt, own], reuse)
        round.counts.update(mixed.counts)
        return mixed.rows


def left_before(folder: RoundFolder) -> list[str]:
    """What the round before left that this one may read: its rows, and the weights that the reference has.

    Raises:
        ConfigError: it is not there.
    """
    if folder.number == 1:
        return []
    before = RoundFolder.of(run_of(folder), folder.number - 1)
    if TRAIN not in before.steps:
        raise ConfigError(
            "the data of the round before are not there",
            got=str(before.path),
            fix="put the run's rounds folder back, or begin anew, without --ckpt_path",
        )
    return [before.manifest["inputs"], before.steps[TRAIN]["sha256"]]


def _last_checkpoint(trainer: Trainer) -> Path | None:
    """The checkpoint of the present step; None: it was not written."""
    written = [Path(getattr(callback, "best_model_path", "") or "none") for callback in trainer.checkpoint_callbacks]
    name = f"step={trainer.global_step}.ckpt"
    return next((path for path in written if path.name == name and path.exists()), None)
