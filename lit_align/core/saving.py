"""Writing a policy in Hugging Face format, and proving that what was written is what was trained."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from lit_align.core.checkpoint_io import publish, temporary
from lit_align.core.errors import ConfigError
from lit_align.core.forward import normalised_rows
from lit_align.core.modes import evaluating
from lit_align.core.policy import build_policy, exported_config, head_of, load_base, peft_is_quiet
from lit_align.core.policy_spec import DtypeName, PolicySpec
from lit_align.core.pretrained import adapter_base, load_tokenizer
from lit_align.core.score_padding import ScorePadding, score_padding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.5, torch.bfloat16: 2.0}
"""Largest change of a log-probability (nats) or score that is put down to rounding, by the coarsest dtype involved.

In 16 bits a single unlikely token may move by half a nat, so only gross mistakes can be told from rounding.
"""

_TEXTS = (
    "Once upon a time there was a little girl who lived near the sea.",
    "The capital of France is Paris, and 12 times 12 is 144.",
    "I am sorry, but I cannot help with that. Is there anything else?",
)


class SavedPolicy(NamedTuple):
    """What `save_policy` has written."""

    folder: Path
    merged: bool
    """Whether the folder holds a whole model, rather than adapters only."""
    largest_change: float
    """Of a token's log-probability (nats), or of a score, between the policy in memory and the folder read back."""
    mean_change: float
    tolerance: float
    note: str = ""
    """What has to be known to use it, for people; often nothing."""


def save_policy(
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    merge: bool = True,
    dtype: DtypeName | None = None,
    tolerance: float | None = None,
    beside: Mapping[str, str] | None = None,
) -> SavedPolicy:
    """Write a policy with its tokenizer and chat template; read the folder back and compare.

    Adapters are merged in float32 and rounded once. 4-bit base weights are dequantised first, because the adapters
    were trained on top of exactly these values, and not on the original ones. The policy is left as it was.

    Args:
        policy: a method's module with its policy built, or a model from `build_policy`; not sharded.
        tokenizer: saved beside the weights, with its chat template.
        folder: must not exist, or be empty. It appears when it is complete and has passed the comparison.
        merge: write a whole model; False: the adapters only, which refer to the base model by its name.
        dtype: of the weights that are written; None: as trained. Adapters are always written as trained.
        tolerance: largest change that is not an error; None: by dtype, see `TOLERANCE`.
        beside: further files, name and text.

    Raises:
        ConfigError: the folder is in use, the policy cannot be written this way, or what was written differs.
    """
    folder = Path(folder)
    model, spec = _unwrapped(policy)
    has_adapters = hasattr(model, "peft_config")
    tokenizer, pad, note = _padding(model, spec, tokenizer, adapters_only=has_adapters and not merge)
    _refuse(model, spec, folder, dtype, adapters_only=has_adapters and not merge)
    partial = temporary(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if has_adapters and not merge:
            _write_adapters(model, spec, partial)
            written = _dtype_of(model)
        else:
            whole = _whole_model(model, spec, dtype)
            with _finished_head(whole, spec):
                _write_model(whole, tokenizer, pad, partial, only_score=spec.normalised_head)
            written = _dtype_of(whole)
            del whole
        tokenizer.save_pretrained(partial)
        for name, text in (beside or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        allowed = tolerance if tolerance is not None else TOLERANCE[_coarsest(model, spec, written)]
        changes = _changes(policy, tokenizer, spec, partial)
        largest = float(changes.max())
        # Not `>`, which NaN would pass.
        if not largest <= allowed:
            raise ConfigError(
                "the written model does not compute what the policy in memory computes",
                got=f"a log-probability or score differs by {largest:.3g}, more than the tolerance of {allowed:.3g}",
                fix="write in a finer dtype, or raise the tolerance if the change is acceptable",
            )
        publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return SavedPolicy(
        folder,
        merged=merge or not has_adapters,
        largest_change=largest,
        mean_change=float(changes.mean()),
        tolerance=allowed,
        note=note,
    )


def require_unused(folder: Path) -> None:
    """Refuse a folder that holds something already, or is a file.

    Raises:
        ConfigError: it does.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError("the folder to write to is in use", got=str(folder), fix="name another, or remove it")


def _unwrapped(policy: nn.Module) -> tuple[nn.Module, PolicySpec]:
    """The Hugging Face or PEFT model inside a method's module or a scorer, and how it was built."""
    model: Any = policy
    if isinstance(getattr(policy, "policy", None), nn.Module):
        model = policy.policy
    inner = getattr(model, "model", None)
    if hasattr(inner, "policy_spec"):
        model = inner
    spec = getattr(model, "policy_spec", None)
    if not isinstance(spec, PolicySpec):
        raise ConfigError(
            "only policies that lit-align has built can be exported",
            got=type(policy).__name__,
            fix="build it with lit_align.core.policy.build_policy, or save it with its own save_pretrained",
        )
    return cast(nn.Module, model), spec


def _refuse(model: nn.Module, spec: PolicySpec, folder: Path, dtype: str | None, *, adapters_only: bool) -> None:
    require_unused(folder)
    if dtype is not None and dtype not in get_args(DtypeName):
        raise ConfigError("unknown dtype", got=f"dtype: {dtype}", fix=f"one of {', '.join(get_args(DtypeName))}")
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        raise ConfigError(
            "a sharded policy cannot be written from within the run",
            got="weights that are spread over processes (FSDP2)",
            fix="lit-align export --run RUN_FOLDER reads the run's sharded checkpoint",
        )
    if adapters_only and spec.normalised_head:
        raise ConfigError(
            "adapters alone cannot hold a head that is normalised",
            got=f"{spec.name} with LoRA, and a head whose rows are centred and of unit length",
            fix="export with --merge true",
        )
    if adapters_only and adapter_base(spec.name, spec.revision) is not None:
        raise ConfigError(
            "adapters that stand on a merged adapter have no base model to refer to",
            got=f"the policy was built from the adapter {spec.name}",
            fix="export with --merge true",
        )


def _whole_model(model: nn.Module, spec: PolicySpec, dtype: DtypeName | None) -> nn.Module:
    """A model without adapters and quantisation that computes what `model` does."""
    target = _dtype_of(model) if dtype in (None, "auto") else getattr(torch, cast(str, dtype))
    if not hasattr(model, "peft_config"):
        # A cast in place would change the policy.
        return model if target == _dtype_of(model) else _copy(model, spec).to(target)
    twin: Any = _copy(model, spec)
    _untie_adapted_head(twin.get_base_model())
    return cast(nn.Module, twin.merge_and_unload(adapter_names=["default"]).to(target))


@torch.no_grad()
def _copy(model: nn.Module, spec: PolicySpec) -> nn.Module:
    """A second policy with the same weights, in float32 or float64 and not quantised."""
    exact: DtypeName = "float64" if _dtype_of(model) is torch.float64 else "float32"
    twin = build_policy(replace(spec, dtype=exact, quantization=None, activation_checkpointing=False))
    values = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, mine in [*twin.named_parameters(), *twin.named_buffers()]:
        if hasattr(mine, "quant_state"):
            raise ConfigError(
                "adapters cannot be merged into 4-bit weights without rounding them away",
                got=f"{spec.name} holds 4-bit weights itself",
                fix="export with --merge false, or train on the model's full-precision weights",
            )
        mine.copy_(_dequantised(values[name]))
    return twin


def _dequantised(value: Tensor) -> Tensor:
    state = getattr(value, "quant_state", None)
    if state is None:
        return value
    from bitsandbytes.functional import dequantize_4bit

    return cast(Tensor, dequantize_4bit(value.data, state))


def _untie_adapted_head(model: Any) -> None:
    """Give an adapted head a weight of its own, or merging into it would change the embedding that it is tied to."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    layer = getattr(head, "base_layer", None)
    if layer is None or layer.weight is not getattr(embedding, "base_layer", embedding).weight:
        return
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    model.config.tie_word_embeddings = False


def _padding(model: Any, spec: PolicySpec, tokenizer: PreTrainedTokenizerBase, *, adapters_only: bool) -> ScorePadding:
    """The tokenizer to write, the padding token of the configuration, and what to say about them."""
    if spec.head == "reward":
        return score_padding(tokenizer, model.config, adapters=adapters_only)
    own = model.config.pad_token_id
    return ScorePadding(tokenizer, tokenizer.pad_token_id if own is None else own, "")


def _as_written(spec: PolicySpec) -> PolicySpec:
    """What a model is once it is written: of a normalised head only the first output is left, which is the score."""
    return replace(spec, outputs=1, output_names=(), normalised_head=False) if spec.normalised_head else spec


@contextmanager
def _finished_head(model: nn.Module, spec: PolicySpec) -> Iterator[None]:
    """A head as it is written, for a while."""
    if not spec.normalised_head:
        yield
        return
    weight = cast(Any, head_of(model)).weight
    before = weight.data
    weight.data = normalised_rows(before)[:1].to(before.dtype)
    try:
        yield
    finally:
        weight.data = before


def _write_model(
    model: Any, tokenizer: PreTrainedTokenizerBase, pad: int | None, folder: Path, *, only_score: bool = False
) -> None:
    config = exported_config(model)
    if only_score:
        config.id2label, config.label2id = {0: "score"}, {"score": 0}
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        part.pad_token_id = pad
    replacements = {"config": config}
    if model.can_generate():
        replacements["generation_config"] = _generation_config(model, tokenizer.eos_token_id)
    with _replaced(model, replacements):
        model.save_pretrained(folder)


def _generation_config(model: Any, eos: int | None) -> Any:
    """The model's own, which also stops where the completions that were trained on have stopped."""
    own = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    if eos is None or eos in ends:
        return own
    config = copy.deepcopy(own)
    config.eos_token_id = [eos, *(end for end in ends if end is not None)]
    try:
        config.validate(strict=True)
    except ValueError:
        # Some published models set a temperature without sampling; transformers writes that only unchanged.
        config.do_sample = True
    return config


@contextmanager
def _replaced(model: nn.Module, attributes: dict[str, Any]) -> Iterator[None]:
    """Other values for some attributes of `model`, for a while."""
    before = {name: getattr(model, name) for name in attributes}
    vars(model).update(attributes)
    try:
        yield
    finally:
        vars(model).update(before)


def _write_adapters(model: Any, spec: PolicySpec, folder: Path) -> None:
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = str(Path(spec.name).resolve()) if Path(spec.name).is_dir() else spec.name
    settings.revision = spec.revision
    # The vocabulary never changes here, and finding that out by itself PEFT asks the hub.
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)


def _changes(policy: nn.Module, tokenizer: PreTrainedTokenizerBase, spec: PolicySpec, folder: Path) -> Tensor:
    """Absolute differences of log-probabilities or scores on a few texts, between memory and `folder`, flat."""
    model, _ = _unwrapped(policy)
    device = next(model.parameters()).device
    reloaded = _reload(spec, folder, device)
    again = load_tokenizer(str(folder), trust_remote_code=spec.trust_remote_code)
    if again.chat_template != tokenizer.chat_template:
        raise ConfigError(
            "the chat template was not written with the tokenizer",
            got=f"{again.chat_template!r}",
            fix="give it as a single template: data.chat_template",
        )
    changes = []
    with _plain(policy, model), _finished_head(model, spec):
        for text in _TEXTS:
            ids, ids_again = (t(text, return_tensors="pt")["input_ids"].to(device) for t in (tokenizer, again))
            if not torch.equal(ids, ids_again):
                raise ConfigError("the written tokenizer splits texts differently", got=text, fix="report its class")
            changes.append((_outputs(model, ids, spec) - _outputs(reloaded, ids, spec)).abs().flatten())
    return torch.cat(changes)


def _reload(spec: PolicySpec, folder: Path, device: torch.device) -> nn.Module:
    """What a user gets who loads `folder` with the settings of the run."""
    if not (folder / "adapter_config.json").is_file():
        written = replace(_as_written(spec), name=str(folder), revision=None, dtype="auto", quantization=None)
        return load_base(written, device).eval()
    from peft import PeftModel

    base = load_base(spec, device)
    with peft_is_quiet():
        return cast(nn.Module, PeftModel.from_pretrained(base, folder)).eval()


@contextmanager
def _plain(policy: nn.Module, model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, with its ordinary attention even where a scorer had changed it."""
    scorer: Any = getattr(policy, "policy", policy)
    if hasattr(scorer, "plain"):
        with scorer.plain():
            yield
        return
    with evaluating(model):
        yield


@torch.no_grad()
def _outputs(model: nn.Module, ids: Tensor, spec: PolicySpec) -> Tensor:
    """Log-probabilities of the tokens of `ids` [1, T], [T - 1] nats; or what the head says, [1, K] or [1, T, K]."""
    logits = cast(Tensor, model(input_ids=ids).logits).double()
    if spec.head != "lm":
        return logits
    return logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


def _dtype_of(model: nn.Module) -> torch.dtype:
    return cast(torch.dtype, cast(Any, model).dtype)


def _coarsest(model: nn.Module, spec: PolicySpec, written: torch.dtype) -> torch.dtype:
    """The least precise of the dtypes of the trained weights, of their products and of the written weights."""
    dtypes = {_dtype_of(model), written}
    if spec.quantization is not None and spec.quantization.compute_dtype is not None:
        dtypes.add(getattr(torch, spec.quantization.compute_dtype))
    return max(dtypes, key=lambda dtype: TOLERANCE[dtype])
