"""A reward model as a judge scores what `lit-align score` scores."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

import lit_align
from lit_align import Trainer
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.text_settings import FILE, TextSettings
from lit_align.judges import RewardModelJudge
from lit_align.judges.text_model import CUT
from tests.helpers import build_tiny_tokenizer

PROMPTS = ["say red ", "b", "say blue ", "and now something much longer than all the others "]
RESPONSES = ["red \u00fc it is", "c d", "no", "yes, of course"]


def values(judge, prompts=PROMPTS, responses=RESPONSES):
    return [judged.score for judged in judge.score(prompts, responses)]


def by_hand(folder, text):
    """Outputs at the last token of a plain text with BOS and EOS as the tokenizer and the data side put them."""
    tokenizer = build_tiny_tokenizer()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].tolist()


def test_scores_are_those_of_the_plain_model(reward_dir):
    judged = values(RewardModelJudge(reward_dir, dtype="float64", batch_size=2))
    expected = [by_hand(reward_dir, prompt + response)[0] for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert judged == pytest.approx(expected, abs=1e-9)
    assert max(judged) - min(judged) > 1e-3


@pytest.mark.parametrize("conversation", [False, True])
def test_scores_are_those_of_lit_align_score(reward_dir, conversation, tmp_path, monkeypatch):
    """Also where the texts are cut, and where they hold strings like special tokens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    prompts, responses = (
        [*PROMPTS, "long " * 30, "x", "</s> in the prompt "],
        [*RESPONSES, "y" * 20, "z" * 90, "</s> <s> there"],
    )
    if conversation:
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
        rows = [
            {"messages": [*prompt, {"role": "assistant", "content": response}]}
            for prompt, response in zip(prompts, responses, strict=True)
        ]
    else:
        rows = [{"prompt": p, "completion": r} for p, r in zip(prompts, responses, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, logger=False)
    data = lit_align.PreferenceDataModule(predict="rows.jsonl", max_length=64)
    records = trainer.score(lit_align.BradleyTerry(policy=reward_dir, dtype="float64"), data)
    judge = RewardModelJudge(reward_dir, dtype="float64", max_length=64, batch_size=3)
    assert values(judge, prompts, responses) == pytest.approx([record["reward"] for record in records], abs=1e-9)
    assert judge.counts.events[CUT] == sum(record["truncated"] for record in records) >= 2


def test_neighbours_and_batches_do_not_matter(reward_dir):
    together = values(RewardModelJudge(reward_dir, dtype="float64"))
    alone = [
        values(RewardModelJudge(reward_dir, dtype="float64"), [p], [r])[0]
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-9)


class TestSeveralNumbers:
    weights = {"helpful": 0.65, "verbose": -0.4}  # noqa: RUF012 - of a test

    def test_they_count_as_the_weights_say(self, rated_dir):
        judged = values(RewardModelJudge(rated_dir, weights=self.weights, dtype="float64"))
        outputs = [by_hand(rated_dir, prompt + response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
        assert judged == pytest.approx([0.65 * row[0] - 0.4 * row[2] for row in outputs], abs=1e-9)

    @pytest.mark.parametrize(
        ("weights", "got"), [(None, "helpful, correct, verbose"), ({"funny": 1}, "funny"), ({}, "no weights")]
    )
    def test_weights_must_be_given_and_known(self, rated_dir, weights, got):
        with pytest.raises(ConfigError, match=got):
            values(RewardModelJudge(rated_dir, weights=weights))


def test_standardised(reward_dir):
    raw = values(RewardModelJudge(reward_dir, dtype="float64"))
    scaled = values(RewardModelJudge(reward_dir, standardise_on=(0.25, 0.5), dtype="float64"))
    assert scaled == pytest.approx([(score - 0.25) / 0.5 for score in raw])
    with pytest.raises(ConfigError, match="standardise_on: std"):
        RewardModelJudge(reward_dir, standardise_on=(0.0, 0.0))


class TestNewHead:
    def test_random_scores_are_refused(self, tiny_model_dir):
        with pytest.raises(ConfigError, match="no head that scores"):
            values(RewardModelJudge(tiny_model_dir))

    def test_unless_they_are_asked_for(self, tiny_model_dir):
        assert values(RewardModelJudge(tiny_model_dir, allow_new_head=True)) == values(
            RewardModelJudge(tiny_model_dir, allow_new_head=True)
        )


def test_nothing_is_loaded_before_it_is_used():
    judge = RewardModelJudge("/no/such/folder")
    judge.release()
    with pytest.raises(ConfigError, match="does not exist"):
        judge.score(["p"], ["a"])


def test_a_released_model_loads_again(reward_dir):
    judge = RewardModelJudge(reward_dir)
    before = values(judge)
    judge.release()
    assert judge.model._scorer is None
    assert values(judge) == before


def test_what_the_template_refuses_has_no_score(reward_dir):
    refuses = "{{ raise_exception('no') if messages[0]['content'] == 'bad' }}"
    template = refuses + "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    judge = RewardModelJudge(reward_dir, chat_template=template)
    prompts = [[{"role": "user", "content": words}] for words in ("good", "bad")]
    judged = judge.score(prompts, ["a", "b"])
    assert judged[0].score is not None
    assert judged[1].score is None
    assert judged[1].reason.startswith("The chat template refuses this conversation")
    assert judge.counts.to_dict()["judged"] == 1


def test_tokens_are_no_prompt(reward_dir):
    with pytest.raises(DataError, match="texts or conversations"):
        RewardModelJudge(reward_dir).score([[1, 2, 3]], ["a"])


def test_scores_that_are_no_numbers(reward_dir):
    judge = RewardModelJudge(reward_dir)
    judge.score(["p"], ["a"])
    judge.model.scorer.model.score.weight.fill_(math.inf)
    assert judge.score(["p"], ["a"])[0].score is None
    assert judge.counts.unjudged == {"the score is not a finite number": 1}


class TestSteps:
    """A model of steps is read behind each step, and its probabilities are put together."""

    prompts = ("2 + 2?\n", "3 + 3?\n", "What?\n")
    responses = ("two and two\nmake four\n", "six", "\n \n")

    @pytest.fixture
    def steps_dir(self, tiny_model_dir, tmp_path):
        def make(outputs=2):
            torch.manual_seed(3)
            config = AutoConfig.from_pretrained(tiny_model_dir, num_labels=outputs)
            model = AutoModelForTokenClassification.from_config(config)
            torch.nn.init.normal_(model.score.weight, std=0.5)
            model.save_pretrained(tmp_path / "steps")
            build_tiny_tokenizer().save_pretrained(tmp_path / "steps")
            return str(tmp_path / "steps")

        return make

    def by_hand(self, folder, number):
        """Probabilities that steps are right, read at the line feeds behind them."""
        tokenizer = build_tiny_tokenizer()
        model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float64).eval()
        prompt, steps = self.prompts[number], self.responses[number].strip().split("\n")
        ids, ends = tokenizer(prompt)["input_ids"], []
        for step in steps:
            ids += tokenizer(f"{step}\n", add_special_tokens=False)["input_ids"]
            ends.append(len(ids) - 1)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, ends]
        return (logits.softmax(-1)[:, 1] if logits.shape[-1] == 2 else logits[:, 0].sigmoid()).tolist()

    @pytest.mark.parametrize("outputs", [1, 2])
    @pytest.mark.parametrize(
        ("settings", "come_to"),
        [
            ({}, min),
            ({"aggregate": "minimum"}, min),
            ({"aggregate": "product"}, math.prod),
            ({"aggregate": "last"}, lambda steps: steps[-1]),
            ({"aggregate": "mean"}, lambda steps: sum(steps) / len(steps)),
            ({"standardise_on": (0.5, 2.0)}, lambda steps: (min(steps) - 0.5) / 2),
        ],
    )
    def test_they_come_to_one_score(self, settings, come_to, outputs, steps_dir):
        folder = steps_dir(outputs)
        judge = RewardModelJudge(folder, step_separator="\n", dtype="float64", **settings)
        first, second, empty = values(judge, self.prompts, self.responses)
        steps = [self.by_hand(folder, number) for number in (0, 1)]
        assert [len(each) for each in steps] == [2, 1]
        assert abs(steps[0][0] - steps[0][1]) > 1e-3
        assert [first, second] == pytest.approx([come_to(each) for each in steps], abs=1e-9)
        assert empty is None

    def test_scores_are_those_of_lit_align_score(self, steps_dir, tmp_path, monkeypatch):
        """Also of conversations, with another separator, and where the last steps are cut off."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
        responses = ["one | two | three", "one", "a step | " * 12]
        rows = [
            {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": r}]} for r in responses
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folder, settings = steps_dir(), {"max_length": 64, "step_separator": "|", "chat_template": "transcript"}
        trainer = Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, logger=False)
        data = lit_align.PreferenceDataModule(predict="rows.jsonl", **settings)
        method = lit_align.ProcessReward(policy=folder, dtype="float64", aggregate="mean")
        records = trainer.score(method, data)
        assert [record["steps"] for record in records][:2] == [3, 1]
        assert records[2]["truncated"]
        judge = RewardModelJudge(folder, dtype="float64", aggregate="mean", **settings)
        judged = values(judge, [row["messages"][:1] for row in rows], responses)
        assert judged == pytest.approx([record["reward"] for record in records], abs=1e-9)

    def test_what_ends_a_step_must_be_known(self, steps_dir, tmp_path):
        folder = steps_dir()
        with pytest.raises(ConfigError, match=r"where the steps(?s:.*)step_separator"):
            values(RewardModelJudge(folder))
        told = values(RewardModelJudge(folder, step_separator="\n"), self.prompts, self.responses)
        (tmp_path / "steps" / FILE).write_text(TextSettings().to_json())
        assert values(RewardModelJudge(folder), self.prompts, self.responses) == told

    def test_other_token_classifiers_are_refused(self, steps_dir):
        with pytest.raises(ConfigError, match="LABEL_2"):
            values(RewardModelJudge(steps_dir(3), step_separator="\n"))
        with pytest.raises(ConfigError, match="no weights"):
            values(RewardModelJudge(steps_dir(2), step_separator="\n", weights={"LABEL_1": 1.0}))

    def test_there_are_four_ways(self):
        with pytest.raises(ConfigError, match="one of product, minimum, last, mean"):
            RewardModelJudge("x", aggregate="min")
