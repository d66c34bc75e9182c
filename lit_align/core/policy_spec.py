"""How a policy is built, in plain types.

Callbacks edit a `PolicySpec` before the policy is built, configurations hold it, and a checkpoint carries it, so that
the policy can be rebuilt without the run's configuration. Libraries' own objects are made from it in
`core/policy.py`, as late as possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lit_align.core.errors import ConfigError

DtypeName = Literal["float32", "bfloat16", "float16", "float64", "auto"]


@dataclass(frozen=True)
class LoRASpec:
    """Low-rank adapters: W x + (alpha / r) B A x, of which only A and B are trained.

    Args:
        r: rank of the adapters.
        alpha: their scale is alpha / r, or alpha / sqrt(r) if rank-stabilised.
        dropout: on the adapters' input, in training.
        target_modules: names of the layers to adapt, or `all-linear` (all but the head), or a regular expression.
        rank_stabilised: scale by sqrt(r), so that high ranks learn as fast as low ones.
        modules_to_save: modules that are trained whole beside the adapters. A reward head always is.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    rank_stabilised: bool = False
    modules_to_save: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(self.r >= 1, "LoRA's rank must be at least 1", f"r: {self.r}", "8 to 64 are usual")
        _require(self.alpha > 0, "LoRA's alpha must be positive", f"alpha: {self.alpha}", "2 * r is usual")
        _require(0 <= self.dropout < 1, "LoRA's dropout must be in [0, 1)", f"dropout: {self.dropout}", "0 to 0.1")
        _require(bool(self.target_modules), "LoRA needs modules to adapt", "target_modules: nothing", "all-linear")


@dataclass(frozen=True)
class QuantizationSpec:
    """Base weights in 4 bits, with bitsandbytes; on CPU too.

    Args:
        kind: nf4 (quantiles of a normal distribution) or fp4.
        double: quantise the scales as well, which saves about 0.4 bits per weight.
        compute_dtype: dtype in which products are computed; None: the policy's.
        storage: dtype that the packed bits are stored as. FSDP1 needs the dtype of the other weights.
    """

    kind: Literal["nf4", "fp4"] = "nf4"
    double: bool = True
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    storage: Literal["uint8", "float32", "bfloat16", "float16"] = "uint8"


@dataclass(frozen=True)
class PolicySpec:
    """How to build a policy.

    Args:
        name: hub name or folder; a folder may also hold a PEFT adapter, see `build_policy`.
        revision: branch, tag or commit on the hub.
        dtype: dtype of the weights; auto: as they were saved.
        attention: attention kernel; None: sdpa, or eager where the architecture has no sdpa.
        trust_remote_code: run code that comes with the model.
        dropout: keep the dropout of the model's configuration.
        quantization: hold the base weights in 4 bits; needs `lora`.
        lora: train adapters only.
        head: `lm` for log-probabilities of tokens, `reward` for scores of texts, `tokens` for scores of tokens.
        outputs: how many numbers a head that scores has.
        output_names: what they stand for, if that has names.
        normalised_head: the rows of the head are centred and of unit length wherever it is used (ODIN).
        activation_checkpointing: recompute activations in the backward pass.
        seed: of weights that no checkpoint holds (adapters, a new head); None: the run's seed.
    """

    name: str
    revision: str | None = None
    dtype: DtypeName = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    trust_remote_code: bool = False
    dropout: bool = False
    quantization: QuantizationSpec | None = None
    lora: LoRASpec | None = None
    head: Literal["lm", "reward", "tokens"] = "lm"
    outputs: int = 1
    output_names: tuple[str, ...] = ()
    normalised_head: bool = False
    activation_checkpointing: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work, before any weight is read."""
        names = get_args(DtypeName)
        _require(self.dtype in names, "unknown dtype", f"model.dtype: {self.dtype}", f"one of {', '.join(names)}")
        _require(bool(self.name), "no policy is named", "model.policy: ''", "name a folder or a hub model")

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only, so that checkpoints load without unpickling."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PolicySpec:
        """Rebuild a spec from `to_dict`."""
        nested = {"quantization": QuantizationSpec, "lora": LoRASpec}
        built = {name: kind(**values[name]) for name, kind in nested.items() if values.get(name) is not None}
        return cls(**{**values, **built})


def _require(condition: bool, what: str, got: str, fix: str) -> None:
    if not condition:
        raise ConfigError(what, got=got, fix=fix)
