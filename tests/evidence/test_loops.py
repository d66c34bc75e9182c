"""The evidence on loops: a world of texts against sums by hand, its tiny models, and a loop cut short."""

from __future__ import annotations

import math

import pytest
import torch
from evidence.experiment import Experiment, Run, execute, load_all
from evidence.loop_runs import LOOP, Arms, evaluate, run_loop, sample
from evidence.product import method
from evidence.worlds.skilled import Skilled
from evidence.worlds.style import LONGEST, Gold, Style, as_answer
from evidence.worlds.tiny import base_policy, new_model, tokenizer_of

from lit_align.callbacks.spin import SPIN
from lit_align.rollouts.hf import generate

WORLD = Style()
GOOD = WORLD.good["t3"]
BAD = [word for word in WORLD.words if word not in GOOD]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIDENCE_CACHE", str(tmp_path / "policies"))


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        (GOOD, 5.0),
        ([], 0.0),
        ([GOOD[0], GOOD[1], GOOD[0]], 1.5),
        ([GOOD[0], BAD[0], BAD[0]], 0.0),
        ([GOOD[0], "t3", "="], -1.0),
        ([*GOOD, *GOOD], 1.5),
    ],
)
def test_gold_counts_words(said, worth):
    assert WORLD.gold("t3 =", as_answer(said)) == worth


def test_an_answer_of_all_tokens_has_no_end():
    nine = [BAD[0]] * (LONGEST - 1)
    assert WORLD.gold("t3 =", as_answer(nine)) == -4.5
    assert WORLD.gold("t3 =", as_answer([*nine, BAD[0]])) == -6.0


def test_every_topic_has_good_words_of_its_own_kind():
    assert all(len(set(good)) == 5 and set(good) <= set(WORLD.words) for good in WORLD.good.values())
    assert WORLD.good == Style(controls=["judge"]).good
    assert WORLD.good_words("judge t3 = w1 =") == GOOD


def test_people_of_the_worlds():
    for row in WORLD.permutations(50, 0):
        assert WORLD.valid(row["prompt"], row["completion"])
        assert WORLD.gold(row["prompt"], row["completion"]) == 5
    rows = WORLD.demonstrations(2000, 0)
    lengths = [len(row["completion"].split()) for row in rows]
    assert (min(lengths), max(lengths)) == (3, 8)
    # Half are good on purpose, and 5 of 16 of the others by luck.
    harm = sum(WORLD.harm(row["prompt"], row["completion"]) for row in rows) / len(rows)
    assert harm == pytest.approx(0.5 * 11 / 16, abs=0.02)
    assert rows == WORLD.demonstrations(2000, 0) != WORLD.demonstrations(2000, 1)


def test_raters_follow_bradley_terry():
    better, worse = as_answer(GOOD[:2]), as_answer(GOOD[:1])
    pairs = WORLD.pairs(["t3 ="] * 4000, [better] * 4000, [worse] * 4000, seed=0)
    share = sum(pair["chosen"] == better for pair in pairs) / len(pairs)
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)
    longer = WORLD.pairs(["t3 ="] * 4000, [better] * 4000, [worse] * 4000, seed=0, scale=2.0, length_bonus=0.5)
    share = sum(pair["chosen"] == better for pair in longer) / len(longer)
    assert share == pytest.approx(1 / (1 + math.exp(-3)), abs=0.02)
    assert WORLD.pairs(["t3 ="], [better], [better], seed=0) == []


def test_a_judge_of_gold_may_like_length_and_err():
    answers = [as_answer(GOOD), as_answer(BAD[:2])]
    assert [judged.score for judged in Gold().score(["t3 ="] * 2, answers)] == [5.0, -1.0]
    assert [judged.score for judged in Gold(length_bonus=0.4).score(["t3 ="] * 2, answers)] == [7.0, -1.0 + 0.8]
    noisy = Gold(noise=0.5, seed=1)
    scores = [noisy.score(["t3 ="], answers[:1])[0].score for _ in range(2)]
    assert scores[0] == scores[1] != 5.0
    many = [as_answer(GOOD[:1] + BAD[:1] * number) for number in range(400)]
    errors = [noisy.score(["t3 ="], [text])[0].score - WORLD.gold("t3 =", text) for text in many]
    assert torch.tensor(errors).std().item() == pytest.approx(0.5, abs=0.06)


def test_texts_become_tokens_and_texts_again():
    tokenizer = tokenizer_of(WORLD)
    text = "t3 =" + as_answer(GOOD)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 1 + 2 + 5
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in tokenizer(" ".join(WORLD.vocabulary()))["input_ids"]


def test_a_first_policy_imitates_and_is_made_once(tmp_path):
    rows = WORLD.permutations(64, 0)
    settings = {"steps": 60, "layers": 1}
    folder = base_policy(WORLD, rows, 0, **settings)
    assert base_policy(WORLD, rows, 0, **settings) == folder
    assert base_policy(WORLD, rows, 1, **settings) != folder
    assert len(list((tmp_path / "policies").iterdir())) == 2
    prompts = WORLD.prompts(200, 5)
    untrained = generate(new_model(WORLD, 0), tokenizer_of(WORLD), prompts, max_new_tokens=LONGEST, temperature=1.0)
    before = sum(WORLD.gold(str(one.prompt), one.text) for one in untrained) / len(untrained)
    after = evaluate(folder, WORLD, prompts=200, seed=5)
    assert after["gold"] > before + 2
    assert after == evaluate(folder, WORLD, prompts=200, seed=5)
    two = sample(folder, prompts[:3], samples=2)
    assert [len(answers) for answers in two] == [2, 2, 2]
    assert {one.prompt for one in two[1]} == {prompts[1]}


def test_a_loop_is_the_products_and_leaves_a_policy_a_round():
    rows = WORLD.permutations(64, 0)
    policy = base_policy(WORLD, rows, 0, steps=10)
    state = torch.random.get_rng_state()
    loop = SPIN(rounds=2, epochs_per_round=2, **LOOP)
    trained = run_loop(method("DPO", beta=1.0), policy, rows, loop, steps=4, batch_size=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trained.first_losses == pytest.approx([math.log(2)] * 2, abs=1e-6)
    assert len(trained.losses) == 8
    assert [manifest["round"] for manifest in trained.manifests] == [1, 2]
    # Round 2 learns from its own pairs and those of round 1.
    assert {row["round"] for row in trained.rounds[1]} == {1, 2}
    assert all(WORLD.valid(row["prompt"], row["chosen"]) for row in trained.rounds[1])
    first, second = (evaluate(folder, WORLD, prompts=64) for folder in trained.policies)
    assert first != second


def test_without_a_loop_rows_are_learnt_as_they_are():
    rows = WORLD.permutations(64, 0)
    policy = base_policy(WORLD, rows, 0, steps=10)
    trained = run_loop(method("SFT"), policy, rows, steps=6, epochs=3, batch_size=16)
    assert len(trained.policies) == 1
    assert trained.rounds == []
    assert trained.losses[-1] < trained.losses[0]
    with pytest.raises(AssertionError, match="too few rows"):
        run_loop(method("SFT"), policy, rows, steps=6, batch_size=64)


def test_arms_hand_over_one_value_a_seed():
    run = Run(Experiment("x", "", "", "", "", 2, lambda run: None))
    arms = Arms(run)
    for seed in range(2):
        arms.add("SFT", gold=float(seed), valid=0.5)
    arms.measure("gold")
    assert run.measures == {"gold": {"SFT": [0.0, 1.0]}}


def test_experiments_on_loops_cut_short():
    known = load_all()
    for name in ("loops_spin",):
        result = execute(known[name], shrink=0.01, seeds=1)
        assert result["expectations"], name
        assert result["waiting"] == []


def test_skill_is_worth_more_and_which_skilled_words_are_good_is_the_same_everywhere():
    world = Skilled(share=0.25, bonus=4.0)
    best, other = sorted(world.best)[0], next(word for word in world.skilled if word not in world.best)
    plain = world.good_words("t3 =")[0]
    assert world.gold("t3 =", f" {best}") == world.gold("t5 =", f" {best}") == 5.0
    assert world.gold("t3 =", f" {best} {best} {other}") == 4.0
    # Good words of the other kind are no good here.
    assert world.gold("t3 =", f" {best} {plain}") == 4.5
    assert world.gold("t3 =", f" {plain} {best}") == 0.5
    assert world.gold("t3 =", "") == 0.0
    said = [row["completion"] for row in world.demonstrations(400, seed=0)]
    assert sum(map(world.is_skilled, said)) == pytest.approx(100, abs=30)
    assert all(len({word in world.skilled for word in answer.split()}) == 1 for answer in said)
