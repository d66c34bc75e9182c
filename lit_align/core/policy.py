"""Building the policy: weights, dtype, attention kernel, quantisation, adapters and head.

What to build is said by a `PolicySpec` (see `core/policy_spec.py`).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn

from lit_align.core.architectures import needs_eager_attention
from lit_align.core.errors import ConfigError
from lit_align.core.policy_spec import DtypeName, LoRASpec, PolicySpec, QuantizationSpec
from lit_align.core.pretrained import adapter_base, explained, load_config, load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TASKS = {"lm": "CAUSAL_LM", "reward": "SEQ_CLS", "tokens": "TOKEN_CLS"}
"""PEFT's names for kinds of models."""
_HEADS = ("score", "classifier")
"""Names of the heads of classifiers."""
COMPARISON = "first_is_better"
"""What the number of a model stands for that reads two responses: the log-odds that the first one is better."""
_SINGLE = {"score", "cost", COMPARISON}
"""What a single number stands for, where lit-align has written it."""

__all__ = [
    "COMPARISON",
    "LoRASpec",
    "ParameterCounts",
    "PolicySpec",
    "QuantizationSpec",
    "build_policy",
    "count_parameters",
    "exported_config",
    "head_of",
    "load_base",
    "load_tokenizer",
    "peft_is_quiet",
]


class ParameterCounts(NamedTuple):
    """How many numbers a model holds, and how many of them are trained."""

    trainable: int
    total: int

    def __str__(self) -> str:
        """Return one line for people."""
        share = 100 * self.trainable / max(1, self.total)
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({share:.2f} %)"


def build_policy(spec: PolicySpec, device: torch.device | str = "cpu") -> nn.Module:
    """Build the model that `spec` describes, in training mode.

    Dropout is off unless asked for, the key-value cache is off, and new weights (adapters, a reward head that the
    checkpoint lacks) come from `spec.seed`; the global random state is left as it was.

    If `spec.name` is a PEFT adapter, its base model is loaded and the adapter merged into it, in `spec.dtype`: what
    the user has trained so far *is* the policy. With `lora` new adapters stand on the merged weights, so that the
    model without adapters, the usual reference, is the adapter's model and not its base.

    Args:
        spec: what to build.
        device: where to build it.

    Returns:
        A causal language model; for `head: reward` a sequence classifier, for `head: tokens` a token classifier, with
        `outputs` labels; wrapped by PEFT if there are adapters.

    Raises:
        ConfigError: the model cannot be found, read or trained as described.
    """
    device = torch.device(device)
    with _seeded(torch.initial_seed() if spec.seed is None else spec.seed, device):
        model = load_base(spec, device)
        if getattr(model, "is_quantized", False) and spec.lora is None:
            raise ConfigError(
                "quantised weights cannot be trained themselves",
                got=f"{spec.name} in 4 or 8 bits without adapters",
                fix="add the QLoRA callback, or load full-precision weights",
            )
        if spec.lora is not None:
            model = _add_adapters(model, spec.lora, spec.head)
    if spec.activation_checkpointing:
        _checkpoint_activations(model)
    model.policy_spec = spec  # type: ignore[assignment]
    return model.train()


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count trained and all parameters; packed 4-bit weights count as the weights that they stand for."""
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        size = parameter.numel() if state is None else math.prod(state.shape)
        total += size
        trainable += size if parameter.requires_grad else 0
    return ParameterCounts(trainable, total)


def head_of(model: nn.Module) -> nn.Module:
    """The head of a sequence classifier that turns a hidden state into scores."""
    for name in _HEADS:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head
    raise ConfigError(
        "this architecture's reward head is not known",
        got=type(model).__name__,
        fix="choose an architecture whose sequence classifier has a `score` layer, such as Llama or Qwen",
    )


def exported_config(model: nn.Module) -> PretrainedConfig:
    """Copy of a model's configuration as it is to be written: without the changes that only serve training."""
    source, config = cast(Any, model).source_config, copy.deepcopy(cast(Any, model).config)
    for part, original in ((config, source), (config.get_text_config(), source.get_text_config())):
        part.use_cache = getattr(original, "use_cache", True)
        for name in _dropout_names(original):
            setattr(part, name, getattr(original, name))
    return cast("PretrainedConfig", config)


def load_base(spec: PolicySpec, device: torch.device) -> nn.Module:
    """Build what `spec` describes up to its new adapters.

    Raises:
        ConfigError: the model cannot be found or read.
    """
    base = adapter_base(spec.name, spec.revision)
    if base is None:
        return _load_weights(spec, device)
    name, revision = base
    merged = _merge(spec, load_base(replace(spec, name=name, revision=revision, quantization=None), device))
    if spec.quantization is None:
        return merged
    # bitsandbytes quantises while it reads files; merging into 4-bit weights instead would round the adapter away.
    with TemporaryDirectory(prefix="lit_align_") as folder:
        cast(Any, merged).save_pretrained(folder)
        return _load_weights(replace(spec, name=folder, revision=None), device)


def _merge(spec: PolicySpec, base: nn.Module) -> nn.Module:
    from peft import PeftModel

    with explained(spec.name, what="adapter"), peft_is_quiet():
        adapted = PeftModel.from_pretrained(base, spec.name, revision=spec.revision)
        merged = adapted.merge_and_unload()
    return merged.requires_grad_(True)


def _load_weights(spec: PolicySpec, device: torch.device) -> nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

    config = load_config(spec.name, spec.revision, spec.trust_remote_code)
    source_config = load_config(spec.name, spec.revision, spec.trust_remote_code)
    if not spec.dropout:
        _zero_dropout(config)
    loader: Any = AutoModelForCausalLM
    if spec.head != "lm":
        loader = AutoModelForSequenceClassification if spec.head == "reward" else AutoModelForTokenClassification
        _label(config, spec, source_config)
    options: dict[str, Any] = {}
    attention = _attention(spec, config)
    if attention is not None:
        options["attn_implementation"] = attention
    if spec.quantization is not None:
        options["quantization_config"] = _bitsandbytes_config(spec.quantization, spec.dtype, spec.head)
        options["device_map"] = {"": device}
    with explained(spec.name, spec.trust_remote_code):
        model, report = loader.from_pretrained(
            spec.name,
            config=config,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            dtype="auto" if spec.dtype == "auto" else getattr(torch, spec.dtype),
            output_loading_info=True,
            **options,
        )
    _mend(model, set(report["missing_keys"]), spec)
    if not getattr(model, "is_quantized", False):
        model.to(device)
    _make_4bit_differentiable(model)
    model.config.use_cache = False
    model.source_config = source_config
    return cast(nn.Module, model)


def _attention(spec: PolicySpec, config: Any) -> str | None:
    """The kernel to ask for; None lets transformers choose.

    Raises:
        ConfigError: SDPA is asked for where it would compute another model.
    """
    if not needs_eager_attention(config):
        return spec.attention
    if spec.attention == "sdpa":
        raise ConfigError(
            "SDPA leaves out the bound on this model's attention logits",
            got=f"model.attention: sdpa for {config.model_type}",
            fix="set model.attention: eager, or leave it out",
        )
    return spec.attention or "eager"


def _mend(model: nn.Module, missing: set[str], spec: PolicySpec) -> None:
    """Initialise a reward head that the checkpoint lacks; refuse a checkpoint that lacks anything else."""
    if spec.head != "lm":
        head = head_of(model)
        own = {name for name, parameter in model.named_parameters() if any(parameter is p for p in head.parameters())}
        if missing & own:
            _initialise_head(head)
            vars(model)["has_new_head"] = True
        missing = missing - own
    if missing:
        raise ConfigError(
            "the checkpoint lacks weights of the model",
            got=f"{spec.name} has no {', '.join(sorted(missing)[:4])} ({len(missing)} in all)",
            fix="name the checkpoint of a causal language model"
            + (", or of a reward model made from one" if spec.head != "lm" else "; is this a reward model?"),
        )


@torch.no_grad()
def _initialise_head(head: nn.Module) -> None:
    """Scores of a new head start near 0 with unit spread: weights from N(0, 1 / (d + 1)), biases 0."""
    for parameter in head.parameters():
        if parameter.ndim == 1:
            parameter.zero_()
        else:
            # Drawn on the CPU in float32, so that every device and dtype starts from the same head.
            values = torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1] + 1)
            parameter.copy_(values)


def _bitsandbytes_config(spec: QuantizationSpec, dtype: DtypeName, head: str) -> Any:
    from transformers import BitsAndBytesConfig

    compute = spec.compute_dtype or (dtype if dtype in ("float32", "bfloat16", "float16") else "float32")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.kind,
        bnb_4bit_use_double_quant=spec.double,
        bnb_4bit_compute_dtype=getattr(torch, compute),
        bnb_4bit_quant_storage=getattr(torch, spec.storage),
        # By itself transformers leaves out the last weight of a model, but not what has a bias behind it.
        llm_int8_skip_modules=list(_HEADS) if head == "tokens" else None,
    )


def _make_4bit_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking weights for its AVX512 kernel at the first evaluation.

    That kernel has no backward pass and the repacked weights are saved wrongly.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _label(config: Any, spec: PolicySpec, source: Any) -> None:
    """Give a classifier's configuration as many labels as the head has outputs.

    Raises:
        ConfigError: the checkpoint is a classifier with another number of labels, or its numbers stand for others.
    """
    names = spec.output_names or (["score"] if spec.outputs == 1 else [f"LABEL_{i}" for i in range(spec.outputs)])
    if (getattr(source, "architectures", None) or [""])[0].endswith("Classification"):
        if source.num_labels != spec.outputs:
            raise ConfigError(
                "the checkpoint's head has another size",
                got=f"{spec.name} with {source.num_labels} labels, where the method has {spec.outputs}",
                fix="start from a language model, or from a reward model of the same method",
            )
        theirs = [str(source.id2label[number]) for number in range(spec.outputs)]
        if _contradict(theirs, list(names), named=bool(spec.output_names)):
            raise ConfigError(
                "the numbers of the checkpoint's head stand for something else",
                got=f"{spec.name} gives {', '.join(theirs)}, where the method has {', '.join(names)}",
                fix="use the method that has written it, with the same settings, or start from a language model",
            )
        if not spec.output_names:
            return
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def _contradict(theirs: list[str], ours: list[str], *, named: bool) -> bool:
    """Whether numbers of a checkpoint cannot be what a method takes them for, as a cost is no score.

    Names that others have given to a single number, and those of transformers for any, say nothing.
    """
    if theirs == ours or all(name.startswith("LABEL_") for name in theirs):
        return False
    return named if len(ours) > 1 else theirs[0] in _SINGLE and ours[0] in _SINGLE


def _add_adapters(model: nn.Module, spec: LoRASpec, head: str) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    targets = spec.target_modules
    tied = bool(getattr(cast(Any, model).config, "tie_word_embeddings", False))
    with explained(type(model).__name__, what="adapter"), peft_is_quiet():
        config = LoraConfig(
            task_type=_TASKS[head],
            r=spec.r,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=spec.rank_stabilised,
            modules_to_save=list(spec.modules_to_save) or None,
            # PEFT trains these heads whole, and leaves only those of sequence classifiers out of `all-linear`.
            exclude_modules=list(_HEADS) if head == "tokens" else None,
            # Otherwise a trained embedding and the head tied to it drift apart, and cannot be merged.
            ensure_weight_tying=tied and bool(spec.modules_to_save),
        )
        return cast(nn.Module, get_peft_model(model, config))


@contextmanager
def peft_is_quiet() -> Iterator[None]:
    """PEFT asks transformers for a property by its old name; that is no concern of the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield


def _checkpoint_activations(model: nn.Module) -> None:
    base = cast(Any, model.get_base_model() if hasattr(model, "get_base_model") else model)  # type: ignore[operator]
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    # Positional: the argument's name changed together with the method's.
    enable({"use_reentrant": False})


def _zero_dropout(config: PretrainedConfig) -> None:
    for part in (config, config.get_text_config()):
        for name in _dropout_names(part):
            setattr(part, name, 0.0)


def _dropout_names(config: PretrainedConfig) -> list[str]:
    """Settings such as `attention_dropout`, `resid_pdrop`, `hidden_dropout_prob`."""
    return [name for name, value in vars(config).items() if "drop" in name and isinstance(value, float)]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from `seed` on the CPU and on `device`, and restore both random states."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not torch.manual_seed, which would also seed every other device.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
