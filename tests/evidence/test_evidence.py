"""The evidence package: its statistics, its worlds against sums by hand, and two experiments cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evidence import report
from evidence.experiment import Experiment, Run, execute, load_all
from evidence.intervals import interval, judge, overall
from evidence.product import Objective, method
from evidence.worlds.bandit import Bandit
from evidence.worlds.bigram import Bigram, value
from evidence.worlds.data import parts, take
from evidence.worlds.tabular import Tabular
from evidence.worlds.tree import Tree

import lit_align


def test_an_interval_is_students():
    # Of 1, 2, 3: deviation 1, 4.3027 / sqrt(3) either way.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.3027 / 3**0.5), abs=1e-4)
    assert torch.tensor(interval([5.0]).half_width).isnan()


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.1, 0.9], "held"),
        ([10.0, 0.1, 0.2], "held"),
        ([1.0, 1.1, 0.9, 1.0, 1.0, -0.01], "held"),
        ([1.0, -0.9, 0.5], "mixed"),
        ([-1.0, -1.1, 0.1], "not held"),
        ([0.0], "not held"),
        ([float("nan"), 1.0], "not held"),
    ],
)
def test_verdicts(differences, verdict):
    assert judge(differences) == verdict


def test_several_verdicts_make_one():
    assert overall(["held", "held"]) == "held"
    assert overall(["held", "not held"]) == "mixed"
    assert overall(["mixed", "not held"]) == "not held"
    assert overall([]) is None


def test_an_objective_is_the_methods_own_loss_of_each_seed():
    """With all seeds in one call, and with a call for each where examples of a batch depend on each other."""
    world = Bandit(2)
    pairs = world.pairs(20)
    theta = torch.full((2, 6), 0.3, dtype=torch.float64)
    state = world.state(theta)
    for name, coupled in (("DPO", False), ("DrDPO", True)):
        objective = Objective(world, method(name, beta=0.5), pairs)
        assert objective.coupled == coupled
        for seed, where in enumerate(parts(pairs, 2)):
            piece = take(pairs, where)
            inputs = world.inputs(state, piece), world.inputs(world.reference, piece)
            by_hand = getattr(lit_align, name)(policy="unused", beta=0.5).losses(*inputs).mean()
            assert objective(theta)[seed].item() == pytest.approx(by_hand.item())


def test_weighted_pairs_are_an_expectation():
    world = Tabular.random(2, responses=3)
    pairs = world.all_pairs(flips=0.2)
    assert pairs.weights[:6].sum().item() == pytest.approx(1.0)
    theta = world.start() + torch.tensor([0.3, 0.0, -0.2], dtype=torch.float64)
    moved = world.state(theta) - world.reference
    gaps = moved[1, 0, pairs.chosen[6:]] - moved[1, 0, pairs.rejected[6:]]
    expected = -(pairs.weights[6:] * torch.nn.functional.logsigmoid(0.5 * gaps)).sum()
    loss = Objective(world, method("DPO", beta=0.5), pairs)(theta)
    assert loss[1].item() == pytest.approx(expected.item())


def test_log_probabilities_of_a_tree_are_those_of_its_tokens():
    world = Tree(2, 0.15)
    state = world.state(world.start())
    assert world.table(state).exp().sum(-1).flatten().tolist() == pytest.approx([1.0, 1.0])
    # Quality 0 with one continue, then the stop: 3 tokens; its first two are the quality and the continue.
    index = torch.tensor([0]), torch.tensor([0]), torch.tensor([1])
    first = torch.tensor([0.6, 0.3, 0.1, 0.0]).log_softmax(0)[0].item()
    more, stop = (torch.nn.functional.logsigmoid(torch.tensor(x)).item() for x in (1.0, -1.0))
    assert world.score(state, *index).item() == pytest.approx(first + more + stop, abs=1e-6)
    assert world.public(state, *index, torch.tensor([2.0])).item() == pytest.approx(first + more, abs=1e-6)
    assert world.lengths(*index).item() == 3


def test_exact_measures_of_the_bigram_model_are_those_of_its_samples():
    world = Bigram(1)
    state = world.state(world.start())
    texts = world.sample(20000)
    assert value(texts).double().mean().item() == pytest.approx(world.value(state).item(), abs=0.05)
    drawn = world.keep(texts)
    logps = world.score(state, torch.zeros_like(drawn), torch.zeros_like(drawn), drawn)
    assert -logps.mean().item() == pytest.approx(world.entropy(state).item(), abs=0.1)


def test_two_experiments_cut_short_write_their_results(tmp_path):
    known = load_all()
    before = torch.random.get_rng_state()
    for name in ("hinge", "length_tail"):
        result = execute(known[name], shrink=0.01, seeds=2)
        assert result["expectations"], name
        assert {m["class"] for m in result["methods"]}
        report.save(result, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    report.write_table(tmp_path, list(known))
    page = (tmp_path / "README.md").read_text()
    for name in ("hinge", "length_tail"):
        assert f"## {name}" in page
        assert json.loads((tmp_path / f"{name}.json").read_text())["experiment"] == name
        assert 2_000 < (tmp_path / f"{name}.png").stat().st_size < 60_000


def test_methods_that_the_product_lacks_are_awaited_not_failed():
    run = Run(Experiment("x", "", "", "", "", 1, lambda run: None))
    present = run.present(method("DPO"), method("NoSuchMethod"))
    assert [one.name for one in present] == ["DPO"]
    run.measure("DPO", reward=torch.tensor([1.0]))
    run.expect("reward", "NoSuchMethod", ">", "DPO")
    assert run.waiting == ["NoSuchMethod"]
    assert run.expectations == []


def test_every_experiment_says_what_it_claims():
    known = load_all()
    assert len(known) > 35
    for about in known.values():
        assert about.claim, about.slug
        assert about.paper, about.slug
        assert len(about.claim) < 125, f"{about.slug}: the title of its figure is too long"


RESULTS = Path(report.__file__).parent / "results"


def test_the_page_of_results_is_made_of_the_measured_numbers(tmp_path):
    names = list(load_all())
    for file in RESULTS.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    report.write_table(tmp_path, names)
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()
    assert {file.stem for file in RESULTS.glob("*.json")} == {file.stem for file in RESULTS.glob("*.png")} == {*names}


def test_every_method_has_evidence():
    results = [json.loads(file.read_text()) for file in RESULTS.glob("*.json")]
    assert [result["experiment"] for result in results if result["waiting"]] == []
    tried = {m["class"] for result in results for m in result["methods"]}
    assert set(lit_align.methods.MODULES) - tried == set()
