"""Losses that are not numbers stop training with their rows named, or cost one step and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_align.callbacks import NonFiniteGuard, RunCheckpoint
from lit_align.callbacks.non_finite_guard import NonFiniteError
from lit_align.core.errors import ConfigError
from tests.callbacks.toy import Kill, ToyModule, assert_same_run, rows, train
from tests.launch import RankError, launch

NAN, INF = math.nan, math.inf
QUIET = {"max_epochs": 1, "limit_val_batches": 0}


def weights(module: ToyModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.policy.parameters()])


@pytest.mark.parametrize("factor", [NAN, INF])
def test_stopping_names_the_rows(tmp_path, factor):
    module = ToyModule(poison={7: factor, 8: factor})
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path, NonFiniteGuard(), module=module, accumulate_grad_batches=13, **QUIET)
    assert caught.value.what == "the loss or its gradient is not finite at optimiser step 1"
    assert sorted(caught.value.got.split(";")[0].removeprefix("rows ").split(", ")) == [
        f"7 (loss {factor})", f"8 (loss {factor})",
    ]  # fmt: skip
    assert "gradients not finite in parameters policy.0.weight, policy.0.bias" in caught.value.got
    assert "NonFiniteGuard(action: skip)" in caught.value.fix
    assert weights(module).isfinite().all()


def test_gradients_alone_name_all_rows_of_the_step(tmp_path):
    class Steep(ToyModule):
        def on_after_backward(self):
            self.policy[0].bias.grad[3] = INF

    with pytest.raises(
        NonFiniteError, match=r"rows \d+, \d+, whose own losses are finite; .* parameters policy.0.bias\n"
    ) as caught:
        train(tmp_path, NonFiniteGuard(), module=Steep(), **QUIET)
    assert "policy.0.weight" not in caught.value.got


def test_many_rows_are_cut_short(tmp_path):
    module = ToyModule(poison=dict.fromkeys(range(1, 27), NAN))
    with pytest.raises(NonFiniteError, match=r"\(loss nan\) and 18 more"):
        train(tmp_path, NonFiniteGuard(), module=module, accumulate_grad_batches=13, **QUIET)


def test_a_skipped_step_changes_neither_weights_nor_moments(tmp_path):
    guard = NonFiniteGuard("skip")
    before: list[torch.Tensor] = []

    class Spy(ToyModule):
        def on_train_batch_start(self, batch, batch_idx):
            if 7 in batch["row"]:
                before.append(self.state())

        def on_train_batch_end(self, outputs, batch, batch_idx):
            if 7 in batch["row"]:
                before.append(self.state())

        def state(self):
            moments = [v for s in self.optimizers().state.values() for v in s.values()]
            return torch.cat([weights(self), *(moment.flatten() for moment in moments)])

    module = Spy(poison={7: NAN})
    with pytest.warns(UserWarning, match=r"was left out.*rows 7 \(loss nan\)"):
        train(tmp_path, guard, module=module, **QUIET)
    assert torch.equal(*before)
    assert guard.skipped == 1
    assert weights(module).isfinite().all()
    logged = [row.get("skipped_steps") for row in rows(tmp_path)]
    assert logged == [None] * logged.count(None) + [1.0] * logged.count(1.0)
    assert len(logged) == 13, "steps count on"


def test_a_bad_micro_batch_costs_its_whole_window(tmp_path):
    guard = NonFiniteGuard("skip")
    module = ToyModule(poison={7: NAN})
    train(tmp_path, guard, module=module, accumulate_grad_batches=4, **QUIET)
    assert guard.skipped == 1
    assert weights(module).isfinite().all()


@pytest.mark.parametrize(("patience", "steps"), [(0, 1), (3, 4)])
def test_patience_ends(tmp_path, patience, steps):
    module = ToyModule(poison=dict.fromkeys(range(1, 27), NAN))
    with pytest.raises(NonFiniteError, match=f"at optimiser step {steps}"):
        train(tmp_path, NonFiniteGuard("skip", patience), module=module, **QUIET)


def test_a_finite_step_restores_patience(tmp_path):
    guard = NonFiniteGuard("skip", patience=1)
    order = torch.randperm(26, generator=torch.Generator().manual_seed(0)).tolist()
    poison = {order[2 * batch] + 1: NAN for batch in (2, 4, 6)}
    train(tmp_path, guard, module=ToyModule(poison=poison), **QUIET)
    assert guard.skipped == 3


def test_without_trouble_nothing_changes(tmp_path):
    plain = train(tmp_path / "plain")
    guarded = train(tmp_path / "guarded", NonFiniteGuard())
    assert_same_run(plain, guarded, tmp_path / "plain", tmp_path / "guarded")


def test_a_killed_run_counts_on(tmp_path):
    poison = {7: NAN, 11: INF}
    guard = NonFiniteGuard("skip")
    whole = train(tmp_path / "whole", guard, module=ToyModule(poison=poison))
    assert guard.skipped == 4, "two rows in two epochs"
    folder = tmp_path / "killed"
    with pytest.raises(RankError, match="died"):
        launch(
            train, folder, NonFiniteGuard("skip"), Kill("on_train_batch_end", 18),
            module=ToyModule(poison=poison), world=1,
        )  # fmt: skip
    again = NonFiniteGuard("skip")
    resumed = train(folder, again, module=ToyModule(poison=poison), ckpt_path="last")
    assert_same_run(whole, resumed, tmp_path / "whole", folder)
    assert again.skipped == 4


def test_patience_goes_on_after_a_restart(tmp_path):
    """Steps 3 to 6 are bad; a run that resumes after step 4 has two of three steps of patience behind it."""
    order = torch.randperm(26, generator=torch.Generator().manual_seed(0)).tolist()
    poison = {order[2 * batch] + 1: NAN for batch in (2, 3, 4, 5)}
    checkpoint = RunCheckpoint(every_n_steps=4, keep=-1)
    train(tmp_path, NonFiniteGuard("skip", 3), module=ToyModule(poison), checkpoint=checkpoint, max_steps=4)
    with pytest.raises(NonFiniteError, match="at optimiser step 6 after 3 skipped steps in a row"):
        train(tmp_path, NonFiniteGuard("skip", 3), module=ToyModule(poison), ckpt_path="last", **QUIET)


class LossWithoutGradient(ToyModule):
    """The loss of row 7 is not a number although its gradient is, so the other ranks do not see it."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + (NAN if 7 in batch["row"] else 0.0)


def lone_run(folder):
    guard = NonFiniteGuard("skip")
    module = train(folder, guard, module=LossWithoutGradient(), devices=2, strategy="ddp", **QUIET)
    return guard.skipped, weights(module)


def test_what_one_rank_sees_all_ranks_leave_out(tmp_path):
    (skipped, mine), (others_skipped, others) = launch(lone_run, tmp_path)
    assert skipped == others_skipped == 1
    assert torch.equal(mine, others)


def rank_run(folder, action, sharded):
    guard = NonFiniteGuard(action)
    module = ToyModule(poison={7: NAN})
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1) if sharded else "ddp"
    try:
        train(folder, guard, module=module, devices=2, strategy=strategy, **QUIET)
    except NonFiniteError as error:
        return error.got
    finite = all(getattr(p, "full_tensor", lambda p=p: p)().isfinite().all() for p in module.parameters())
    return guard.skipped, finite


@pytest.mark.parametrize("sharded", [False, True])
def test_ranks_agree(tmp_path, sharded):
    for text in launch(rank_run, tmp_path / "stop", "stop", sharded):
        assert "7 (loss nan)" in text
        assert "rank 0: rows" in text
        assert "rank 1: rows" in text
    assert launch(rank_run, tmp_path / "skip", "skip", sharded) == [(1, True), (1, True)]


def test_half_precision_leaves_gradients_to_the_scaler(tmp_path):
    class Overflow(ToyModule):
        def on_after_backward(self):
            self.policy[0].bias.grad[3] = INF

    class Half:
        datamodule = None
        precision = "16-mixed"
        world_size = 1
        global_step = 0
        loggers = ()

        class strategy:
            @staticmethod
            def reduce_boolean_decision(decision, all):
                return decision

    guard, module = NonFiniteGuard(), ToyModule()
    module.configure_model()
    for parameter in module.policy.parameters():
        parameter.grad = torch.full_like(parameter, INF)
    guard.on_before_backward(Half, module, torch.tensor(1.0))
    guard.on_before_optimizer_step(Half, module, None)
    guard.on_before_backward(Half, module, torch.tensor(NAN))
    with pytest.raises(NonFiniteError, match="rows unknown"):
        guard.on_before_optimizer_step(Half, module, None)


@pytest.mark.parametrize("setting", [{"action": "pray"}, {"patience": -1}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: {next(iter(setting.values()))}"):
        NonFiniteGuard(**setting)
