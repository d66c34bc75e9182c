"""The product's own loops, run in a world of texts: `AlignTrainer.fit` with a callback that makes the data.

How to write a loop experiment, in experiments/loops_<name>.py:

    from evidence.experiment import Run, experiment
    from evidence.loop_runs import LOOP, Arms, evaluate, run_loop
    from evidence.product import method
    from evidence.worlds.style import Gold, Style
    from evidence.worlds.tiny import base_policy
    from lit_align.callbacks.spin import SPIN

    @experiment(claim=..., paper=..., world=..., budget=..., seeds=3)
    def loops_spin(run: Run) -> None:
        world, arms = Style(), Arms(run)
        (dpo,) = run.present(method("DPO", "SPIN", beta=1.0))
        for seed in range(run.seeds):
            rows = world.permutations(2048, seed)
            policy = base_policy(world, rows, seed, steps=90)
            arms.add("SFT", **evaluate(policy, world))
            loop = SPIN(rounds=4, epochs_per_round=6, seed=seed, **LOOP)
            trained = run_loop(dpo, policy, rows, loop, steps=150, seed=seed)
            for number, after in enumerate(trained.policies, start=1):
                arms.add(f"round {number}", **evaluate(after, world))
        arms.measure()
        run.expect("valid", "round 4", ">", "SFT", by=0.04)

What to know:

- Seeds are a loop in the experiment; `Arms` collects one value a seed and label, and `measure` hands them to the run.
- `rows` is `data.train`: what the loop begins with (`world.prompt_rows`, `world.demonstrations`, or pairs). Without a
  callback it is what the method learns from, for baselines: `run_loop(dpo, policy, pairs, steps=..., epochs=...)`.
- `steps` are the optimiser steps of a round, an exact number: every epoch is cut to steps / epochs batches, drawn anew,
  so that the rows must fill these; else it says so. Rounds of few rows take more `epochs_per_round`, or `exact=False`.
- `**LOOP` are the settings that these worlds want of every callback: ten tokens, large batches, no kept checkpoints,
  and no end at an alarm, so that failures show (with `stop_on_alarm=True` there may be fewer policies than rounds).
- A judge with the world's gold is `Gold(world, length_bonus=..., noise=...)`; pairs by a rater are `world.pairs(...)`;
  answers of a policy to make them of are `sample(policy, world, prompts, samples=2, seed=...)`.
- `trained.policies` are folders, one a round; each may be the `policy` of another run. `trained.first_losses` are the
  losses of the first step of each round (ln 2 where the reference is the round's beginning), `trained.rounds` the rows
  of train.jsonl of each round, and `trained.manifests` what the product noted of it (with counts of what was left out).
- Pass `folder=` to look at the run's files afterwards; else they are gone when the call returns, except the policies.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

import lit_align
from evidence.experiment import Run
from evidence.product import Method
from evidence.quiet import quiet
from evidence.worlds.style import LONGEST, Row, Style
from evidence.worlds.tiny import save
from lit_align.data.module import PreferenceDataModule
from lit_align.rollouts.hf import generate
from lit_align.trainer import AlignTrainer

LOOP: dict[str, Any] = {
    "max_new_tokens": LONGEST,
    "batch_size": 512,
    "part_size": 4096,
    "keep_starts": False,
    "stop_on_alarm": False,
}
"""Settings of a `RegenerationCallback` that fit these worlds."""

_POLICIES = tempfile.TemporaryDirectory(prefix="policies_")
"""Goes with the process."""


class Trained(NamedTuple):
    """What a run left."""

    policies: list[str]
    """Folder of the policy after each round; one where there was no loop."""
    losses: list[float]
    """Of every optimiser step."""
    first_losses: list[float]
    """Of the first step of each round."""
    rounds: list[list[Row]]
    """Rows that each round learnt from."""
    manifests: list[dict[str, Any]]
    """What the product noted of each round."""

    @property
    def pairs(self) -> int:
        """How many rows were learnt from, in all rounds."""
        return sum(map(len, self.rounds))


class Answered(NamedTuple):
    """What a policy wrote."""

    prompt: str
    text: str
    words: int
    finished: bool


def run_loop(
    method: Method,
    policy: str,
    rows: Sequence[Row],
    callback: Any = None,
    *,
    steps: int,
    epochs: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    folder: str | Path | None = None,
    exact: bool = True,
    callbacks: Sequence[Callback] = (),
    **data: Any,
) -> Trained:
    """Train with the product: round by round with a callback, or once on the rows as they are.

    The optimiser is AdamW without decay, its rate falls to 0 in a line within each round, gradients are clipped at 1.

    Args:
        method: of the product, with settings; `learning_rate`, `schedule` and the like may be among them.
        policy: folder of the model to begin with.
        rows: `data.train`.
        callback: a `RegenerationCallback`; None: `rows` are learnt from.
        steps: optimiser steps of each round.
        epochs: passes over the rows, where there is no callback to say.
        seed: of the order of rows.
        batch_size: rows of a step.
        learning_rate: at the beginning of a round.
        folder: of the run; None: one that is removed.
        exact: stop where a round has too few rows for its steps; else it has fewer steps.
        callbacks: further ones.
        **data: further settings of `PreferenceDataModule`.
    """
    epochs = epochs if callback is None else callback.epochs_per_round
    assert steps % epochs == 0, f"{steps} steps are not {epochs} epochs of the same length"
    root = Path(tempfile.mkdtemp(prefix="loop_")) if folder is None else Path(folder)
    keep = _KeepPolicies(Path(tempfile.mkdtemp(dir=_POLICIES.name)), epochs)
    given: dict[str, Any] = {"batch_size": batch_size, "bucket": False, "drop_last": True, "max_length": 64}
    with quiet():
        torch.manual_seed(seed)
        trainer = AlignTrainer(
            default_root_dir=str(root),
            accelerator="cpu",
            max_epochs=epochs if callback is None else None,
            limit_train_batches=steps // epochs,
            gradient_clip_val=1.0,
            callbacks=[*([] if callback is None else [callback]), *callbacks, keep],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        pairs = PreferenceDataModule(list(rows), seed=seed, cache_dir=root / "cache", **given | data)
        trainer.fit(_module(method, policy, learning_rate), pairs)
    wanted = steps * (1 if callback is None else callback.rounds)
    if exact and not getattr(callback, "ended", False):
        made = trainer.global_step
        assert made == wanted, f"{made} steps, not {wanted}: too few rows for {steps} a round"
    first_losses = [keep.losses[start] for start in keep.starts if start < len(keep.losses)]
    trained = Trained(keep.folders, keep.losses, first_losses, *_rounds(root))
    if folder is None:
        shutil.rmtree(root)
    return trained


def _module(method: Method, policy: str, learning_rate: float) -> Any:
    """The product's method for runs like these."""
    # Of texts so short, padding costs less than what avoids it.
    usual = {"learning_rate": learning_rate, "schedule": "linear", "warmup_ratio": 0.0, "layout": "padded"}
    module = getattr(lit_align, method.name)(policy=policy, **usual | method.kwargs)
    # A third of the time of a step so small, and nobody reads it.
    module.log = module.log_dict = _unread
    return module


def sample(
    policy: str, prompts: Sequence[str], *, samples: int = 1, seed: int = 0, temperature: float = 1.0
) -> list[list[Answered]]:
    """What a policy answers, `samples` answers to each prompt; the same seed draws with the same random numbers."""
    with quiet():
        model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
        done = generate(
            model,
            tokenizer,
            list(prompts),
            max_new_tokens=LONGEST,
            temperature=temperature,
            samples=samples,
            seed=seed,
            batch_size=512,
        )
    answers = [
        Answered(str(one.prompt), f" {one.text}" if one.text else "", len(one.ids) - one.finished, one.finished)
        for one in done
    ]
    return [answers[start : start + samples] for start in range(0, len(answers), samples)]


def evaluate(policy: str, world: Style, prompts: int = 2048, seed: int = 10_000) -> dict[str, float]:
    """Means over answers drawn at temperature 1 to prompts that are the same for all policies.

    Returns:
        `gold`; `length`, words; `valid`, share of permutations; `finished`, share; `distinct`, good words; `harm`,
        share of words that are bad. The standard error of `gold` is about 0.035.
    """
    answers = [one for (one,) in sample(policy, world.prompts(prompts, seed), seed=seed)]
    columns = {
        "gold": [world.gold(one.prompt, one.text) for one in answers],
        "length": [float(one.words) for one in answers],
        "valid": [float(one.finished and world.valid(one.prompt, one.text)) for one in answers],
        "finished": [float(one.finished) for one in answers],
        "distinct": [float(len(set(one.text.split()) & set(world.good_words(one.prompt)))) for one in answers],
        "harm": [world.harm(one.prompt, one.text) for one in answers],
    }
    return {name: sum(values) / len(values) for name, values in columns.items()}


class Arms:
    """Numbers of experiments whose seeds are run one after the other.

    Args:
        run: gets them.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, label: str, **values: float) -> None:
        """Numbers of the next seed of an arm."""
        for name, value in values.items():
            self.values.setdefault(label, {}).setdefault(name, []).append(float(value))

    def measure(self, *names: str) -> None:
        """Hand over what was added, or the measures that are named."""
        for label, columns in self.values.items():
            kept = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
            self.run.measure(label, **{name: kept[name] for name in names or kept if name in kept})


class _KeepPolicies(Callback):
    """Keeps the policy after each round, and the loss of every step.

    Args:
        folder: where.
        epochs: of a round.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        self.folders: list[str] = []
        self.starts: list[int] = []
        self.losses: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where a round begins."""
        if trainer.current_epoch % self.epochs == 0:
            self.starts.append(len(self.losses))

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Keep the loss."""
        self.losses.append(module.last_step.loss.item())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the policy, where a round ends."""
        if (trainer.current_epoch + 1) % self.epochs == 0:
            folder = self.folder / f"round_{len(self.folders) + 1}"
            module: Any = pl_module
            self.folders.append(save(module.policy.model, trainer.datamodule.tokenizer, folder))  # type: ignore[attr-defined]


def _unread(*_: Any, **__: Any) -> None:
    """Log nothing."""


def _rounds(root: Path) -> tuple[list[list[Row]], list[dict[str, Any]]]:
    """Rows and manifests of the rounds of a run."""
    folders = sorted((root / "rounds").glob("round_*"), key=lambda folder: int(folder.name.partition("_")[2]))
    rows = [[json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()] for folder in folders]
    return rows, [json.loads((folder / "manifest.json").read_text()) for folder in folders]
