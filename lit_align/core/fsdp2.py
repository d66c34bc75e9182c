"""FSDP2 as a Lightning strategy: weights, gradients and optimiser state in equal parts over all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule

from lit_align.core.checkpoint_io import AtomicCheckpointIO, discard, is_complete, publish, temporary
from lit_align.core.errors import ConfigError
from lit_align.core.sharded_checkpoint import META, by_name, load, saved_names, split

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism over all processes of all nodes; on GPUs, and on CPUs with gloo.

    The module shards itself in `configure_model` (see `core/sharding.py`); the strategy trains it and keeps its
    checkpoints. These hold what the module's `state_dict` holds, so weights that training does not change stay out.

    Args:
        save_distributed_checkpoint: write a checkpoint as a folder in which every rank has a file of its own; if
            not, rank 0 gathers all of it and writes a single file, as without sharding. Runs resume from both.
        sync_every_micro_batch: reduce gradients over ranks after every micro-batch rather than once per optimiser
            step: more communication, but a rank never holds gradients of all weights at once.
        process_group_backend: how processes talk; chosen by the device if None.
        timeout: of collective operations.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        sync_every_micro_batch: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self.sync_every_micro_batch = sync_every_micro_batch

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Make `trainer.strategy: fsdp2` known."""
        strategy_registry.register("fsdp2", cls, description="Fully sharded data parallelism (FSDP2)", override=True)

    # ---------------------------------------------------------------- setting up

    def setup_environment(self) -> None:
        """Form the process group and the mesh of all processes.

        Raises:
            ConfigError: the precision does not go with sharded weights.
        """
        precision = self.precision_plugin.precision
        if precision not in _PRECISIONS:
            raise ConfigError(
                "the strategy fsdp2 does not work with this precision",
                got=f"trainer.precision: {precision}",
                fix=f"use one of {', '.join(_PRECISIONS)}; bf16-mixed where the device has bfloat16",
            )
        if self._checkpoint_io is None:
            self.checkpoint_io = AtomicCheckpointIO()
        # Lightning's "auto" is the number of nodes, with tensor parallelism inside of each.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Move the module to the device and build the optimiser."""
        # A weight that is first gathered in inference mode could not be trained afterwards.
        for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False
        super().setup(trainer)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep gradients local while an accumulation window is open; Lightning enters this for such micro-batches."""
        self._sync_gradients(self.sync_every_micro_batch)
        try:
            yield
        finally:
            self._sync_gradients(True)

    def _sync_gradients(self, enabled: bool) -> None:
        assert self.model is not None
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(enabled, recurse=False)

    # ---------------------------------------------------------------- checkpoints

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint that appears under its name only when all ranks have written their part."""
        path = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options)
            return
        partial = temporary(path)
        if self.is_global_zero:
            discard(partial)
            partial.mkdir(parents=True)
        self.barrier()
        parts, meta = split(checkpoint)
        save(parts, checkpoint_id=partial)
        if self.is_global_zero:
            torch.save(meta, partial / META)
            publish(partial, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimiser state into the shards; returns the rest for Lightning to restore.

        Args:
            checkpoint_path: a folder, or a single file that any strategy wrote.
            weights_only: see `torch.load`.

        Raises:
            ConfigError: the checkpoint is incomplete, or not of this model.
        """
        path = Path(self.broadcast(checkpoint_path))
        if not is_complete(path):
            raise ConfigError(
                "there is no complete checkpoint here",
                got=str(path),
                fix="give a file or folder that a run has written, or --ckpt_path last",
            )
        return self._load_folder(path, weights_only) if path.is_dir() else self._load_file(path, weights_only)

    def _load_folder(self, folder: Path, weights_only: bool | None) -> dict[str, Any]:
        module = self.lightning_module
        assert module is not None
        module.check_names(saved_names(folder))
        # Shards share memory with the parameters, so reading into them is loading.
        load({"state_dict": module.state_dict()}, folder)
        for index, optimizer in enumerate(self.optimizers):
            state = {f"optimizer_{index}": get_optimizer_state_dict(module, optimizer)}
            load(state, folder)
            set_optimizer_state_dict(module, optimizer, state[f"optimizer_{index}"])
        meta: dict[str, Any] = torch.load(folder / META, weights_only=weights_only is not False)
        return meta

    def _load_file(self, file: Path, weights_only: bool | None) -> dict[str, Any]:
        module = self.lightning_module
        assert module is not None
        checkpoint = self.checkpoint_io.load_checkpoint(file, weights_only=weights_only)
        weights = checkpoint.pop("state_dict")
        module.check_names(set(weights))
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(module, weights, options=options)
        # Verbs that only evaluate build no optimiser.
        states = checkpoint.pop("optimizer_states", [])[: len(self.optimizers)]
        for optimizer, state in zip(self.optimizers, states, strict=True):
            named = by_name(state, like=get_optimizer_state_dict(module, optimizer))
            set_optimizer_state_dict(module, optimizer, named, options=options)
        return checkpoint
