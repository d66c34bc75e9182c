"""Train adapters on base weights that are held in 4 bits."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Literal

from lit_align.callbacks.lora import LoRA
from lit_align.core.errors import ConfigError
from lit_align.core.policy import PolicySpec, QuantizationSpec


class QLoRA(LoRA):
    """LoRA on a base that bitsandbytes holds in 4 bits (Dettmers et al., 2023); works on CPU too.

    Only adapters are in checkpoints: the base is quantised anew from `model.policy`, which gives the same bits.

    Args:
        r: rank of the adapters.
        alpha: their scale is alpha / r (alpha / sqrt(r) if rank-stabilised).
        dropout: on the adapters' input, in training.
        target_modules: names of the layers to adapt, `all-linear` (all but the head), or a regular expression.
        rank_stabilised: scale by sqrt(r), so that high ranks learn as fast as low ones.
        modules_to_save: modules that are trained whole beside the adapters. A reward head always is.
        kind: nf4 (quantiles of a normal distribution) or fp4.
        double: quantise the scales as well, which saves about 0.4 bits per weight.
        compute_dtype: dtype in which products are computed; none: `model.dtype`.
        storage: dtype that the packed bits are stored as; FSDP1 needs the dtype of the other weights.
    """

    def __init__(
        self,
        r: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        target_modules: str | list[str] = "all-linear",
        rank_stabilised: bool = False,
        modules_to_save: list[str] | None = None,
        kind: Literal["nf4", "fp4"] = "nf4",
        double: bool = True,
        compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        storage: Literal["uint8", "float32", "bfloat16", "float16"] = "uint8",
    ) -> None:
        super().__init__(r, alpha, dropout, target_modules, rank_stabilised, modules_to_save)
        self.quantization = QuantizationSpec(kind=kind, double=double, compute_dtype=compute_dtype, storage=storage)

    def adapt(self, spec: PolicySpec) -> PolicySpec:
        """Return `spec` with 4-bit base weights and these adapters.

        Raises:
            ConfigError: bitsandbytes is not installed, or cannot compute in the policy's dtype.
        """
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                "QLoRA needs bitsandbytes",
                got="it is not installed",
                fix="pip install bitsandbytes (Linux and Windows), or use LoRA",
            )
        if spec.dtype == "float64":
            raise ConfigError(
                "4-bit weights cannot be multiplied in float64",
                got="model.dtype: float64 with QLoRA",
                fix="use float32 or bfloat16",
            )
        return replace(super().adapt(spec), quantization=self.quantization)
