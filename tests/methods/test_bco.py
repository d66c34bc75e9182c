"""BCO's shift: the mean reward of what the run has seen, which validation does not touch."""

from __future__ import annotations

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind, Layout
from lit_align.core.outputs import SequenceLogps
from tests.cases.row import K4_NO_KL, P2, t
from tests.methods.scoring import collated, make_examples, ready

ZERO = t(0.0).squeeze()


def logps(*sums: float) -> SequenceLogps:
    return SequenceLogps(t(*sums), t(*[1] * len(sums)))


def test_the_second_batch_of_a_run():
    """Values of TRL 1.9's BCOTrainer with its RunningMoments."""
    module = lit_align.BCO(policy="unused", beta=0.1)
    module.losses(*K4_NO_KL)
    assert module.shift.mean == pytest.approx(0.04375)
    label = torch.tensor([True, True, False])
    losses = module.losses(logps(-5.0, -6.0, -7.0), logps(-6.0, -6.5, -5.0), label, ZERO)
    assert module.shift.mean == pytest.approx(0.01785714286)
    assert losses.tolist() == pytest.approx([0.6529189461, 0.6772048918, 0.5901396306], rel=1e-9)


def test_without_a_shift_a_pair_is_the_sum_of_its_terms():
    """Values of TRL 1.16's `bco_pair`."""
    module = lit_align.BCO(policy="unused", beta=0.1).eval()
    chosen, rejected = (
        module.losses(logps(*policy), logps(*reference), torch.tensor([label] * 2), ZERO)
        for policy, reference, label in (
            (P2[0].chosen, P2[1].chosen, True), (P2[0].rejected, P2[1].rejected, False),
        )
    )  # fmt: skip
    assert (chosen + rejected).tolist() == pytest.approx([1.324809789, 1.437075444], rel=1e-9)


def test_validation_leaves_the_shift_as_it_is(tiny_model_dir):
    module = ready("BCO", tiny_model_dir)
    batch = collated(module, make_examples(DataKind.UNPAIRED), Layout.SHARED)
    module.train()
    module.terms(batch)
    shift, count = module.shift.mean.item(), module.shift.count.item()
    assert shift != 0
    assert count == 4
    module.eval()
    module.terms(batch)
    assert (module.shift.mean.item(), module.shift.count.item()) == (shift, count)
