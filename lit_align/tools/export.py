"""`lit-align export`: make a Hugging Face model of a run's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from lit_align.cli import silence_noise
from lit_align.core.checkpoint_io import AtomicCheckpointIO, newest_checkpoint
from lit_align.core.errors import ConfigError
from lit_align.core.policy import build_policy
from lit_align.core.policy_spec import PolicySpec
from lit_align.core.pretrained import load_tokenizer
from lit_align.core.saving import SavedPolicy, save_policy
from lit_align.core.sharded_checkpoint import read_sharded
from lit_align.data.module import PreferenceDataModule
from lit_align.data.text_settings import FILE, TextSettings
from lit_align.data.tokenizers import adjusted
from lit_align.tools.command import run_command, with_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POLICY = "policy.model."
"""Where a method's `state_dict` holds the policy."""


def export(
    run: str | None = None,
    ckpt: str | None = None,
    out: str | None = None,
    merge: bool = True,
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None,
    policy: str | None = None,
    tokenizer: str | None = None,
    tolerance: float | None = None,
) -> None:
    """Write a trained model in Hugging Face format, with tokenizer and chat template, and check it.

    Beside it stands how its texts become tokens (lit_align_text.json), for judges and evaluations.

    Args:
        run: folder of a run, also without `--run`; its newest complete checkpoint is exported.
        ckpt: a checkpoint instead: a file, or the folder of a sharded one.
        out: folder to write; default: `export` in the run's folder.
        merge: merge adapters into the base model; false: write the adapters only.
        dtype: of the written weights; default: as trained.
        policy: the model that training started from, if it has moved since.
        tokenizer: folder or hub name of a tokenizer; default: the one that the run trained with.
        tolerance: largest change of a log-probability (nats) or score that is accepted; default: by dtype.
    """
    path = find_checkpoint(run, ckpt)
    checkpoint = read_checkpoint(path)
    spec = saved_spec(checkpoint, policy)
    model = restored_policy(checkpoint, spec)
    run_folder = _run_folder(path)
    saved = save_policy(
        model,
        _tokenizer(spec, tokenizer, checkpoint),
        Path(out) if out else _default_out(run_folder, path),
        merge=merge,
        dtype=dtype,
        tolerance=tolerance,
        beside=_beside(checkpoint),
    )
    print(_summary(path, saved))


def find_checkpoint(run: str | None, ckpt: str | None) -> Path:
    """The checkpoint that is meant: `ckpt`, or the newest complete one of `run`.

    Raises:
        ConfigError: neither or both are given, or there is no checkpoint.
    """
    if (run is None) == (ckpt is None):
        raise ConfigError(
            "say which checkpoint to export",
            got="both --run and --ckpt" if run else "neither --run nor --ckpt",
            fix="lit-align export --run RUN_FOLDER, or --ckpt FILE",
        )
    if ckpt is not None:
        return Path(ckpt)
    folder = Path(str(run)) / "checkpoints"
    newest = newest_checkpoint(folder)
    if newest is None:
        earlier = newest_checkpoint(folder.with_name("checkpoints.old"))
        raise ConfigError(
            "the run has no complete checkpoint",
            got=str(folder) if folder.is_dir() else f"{folder}: no such folder",
            fix=f"an earlier run in this folder has one: --ckpt {earlier}"
            if earlier
            else "--run takes the trainer's default_root_dir; a checkpoint from elsewhere is given by --ckpt",
        )
    return newest


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, one file or sharded, without running any code that it may hold.

    Raises:
        ConfigError: it is missing, damaged, or not of lit-align.
    """
    sharded = path.is_dir()
    checkpoint = read_sharded(path, weights_only=True) if sharded else AtomicCheckpointIO().load_checkpoint(path)
    if "policy_spec" not in checkpoint.get("lit_align", {}):
        raise ConfigError(
            "this checkpoint was not written by lit-align",
            got=f"{path} with {', '.join(sorted(checkpoint)[:6])}",
            fix="give a checkpoint of `lit-align fit`",
        )
    return checkpoint


def saved_spec(checkpoint: Mapping[str, Any], policy: str | None = None) -> PolicySpec:
    """How the policy of a checkpoint is built.

    Args:
        checkpoint: from `read_checkpoint`.
        policy: the model that training started from, if it has moved since.
    """
    spec = PolicySpec.from_dict(checkpoint["lit_align"]["policy_spec"])
    return spec if policy is None else replace(spec, name=policy)


def restored_policy(checkpoint: Mapping[str, Any], spec: PolicySpec) -> nn.Module:
    """The policy as it was when the checkpoint was written, in training mode.

    Raises:
        ConfigError: the weights do not fit the model that `spec` describes.
    """
    weights: dict[str, Tensor] = {
        name.removeprefix(_POLICY): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_POLICY)
    }
    model = build_policy(spec)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # A refreshed reference may be saved as a second adapter; it is no part of the policy.
    weights = {name: value for name, value in weights.items() if ".reference." not in name}
    unknown = sorted(weights.keys() - model.state_dict().keys())
    missing = sorted(trained - weights.keys())
    if unknown or missing:
        raise ConfigError(
            "the checkpoint does not fit the model that training started from",
            got=f"{len(missing)} weights missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}",
            fix=f"is {spec.name} still the model that it was? --policy names another",
        )
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ConfigError(
            "the checkpoint does not fit the model that training started from",
            got=" ".join(str(error).split())[:300],
            fix=f"is {spec.name} still the model that it was? --policy names another",
        ) from error
    return model


def main(argv: list[str]) -> None:
    """Run `lit-align export`."""
    silence_noise()
    run_command("export", export, with_run(argv), as_positional=False)


def _run_folder(checkpoint: Path) -> Path | None:
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else None


def _default_out(run_folder: Path | None, checkpoint: Path) -> Path:
    if run_folder is not None:
        return run_folder / "export"
    return checkpoint.with_name(f"{checkpoint.stem}-export")


def _tokenizer(spec: PolicySpec, name: str | None, checkpoint: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that the run trained with, with its chat template and EOS token."""
    data = checkpoint.get(PreferenceDataModule.__qualname__, {})
    name = name or data.get("tokenizer") or spec.name
    revision = spec.revision if name == spec.name else None
    tokenizer = load_tokenizer(name, revision, spec.trust_remote_code)
    return adjusted(tokenizer, data.get("chat_template"), data.get("eos_token"))


def _beside(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """How the run made tokens of texts, as a file; none where it learnt from a DataModule of the user's own."""
    values = checkpoint.get(PreferenceDataModule.__qualname__, {}).get("text")
    return {} if values is None else {FILE: TextSettings(**values).to_json()}


def _summary(checkpoint: Path, saved: SavedPolicy) -> str:
    what = "whole model" if saved.merged else "adapters only"
    return (
        f"{checkpoint} -> {saved.folder} ({what})\n"
        f"read back: largest change of a log-probability or score {saved.largest_change:.2g}, "
        f"mean {saved.mean_change:.2g} (tolerance {saved.tolerance:.2g})"
        + (f"\nnote: {saved.note}" if saved.note else "")
    )
