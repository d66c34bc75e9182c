"""Ranked, scored, judged and paraphrased data: from files to examples, and into a trainer."""

from __future__ import annotations

import pytest

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import REPEATED_RESPONSE, SAME_PARAPHRASE
from lit_align.data.module import PreferenceDataModule
from lit_align.data.outcome import REPEATED_TOKENS, UNALIGNED
from tests.data import tokenizers as tk
from tests.data.modules import QUIET, Method, fit, rows_of, trainer, write
from tests.data.reading import assistant, user

pytestmark = QUIET


def texts(data, example):
    """For each response, what the model sees and what of it is the completion."""
    decode = data.tokenizer.decode
    return [(decode(ids[:n]), decode(ids[n:])) for ids, n in zip(example.ids, example.prompt_lengths, strict=True)]


def refused(data, kind):
    with pytest.raises(DataError) as caught:
        data.examples("train", kind)
    assert caught.value.fix
    return caught.value


# ---------------------------------------------------------------- ranked

LISTS = [
    {"prompt": f"Q{n}?", "responses": ["!" * (3 * k + n % 3 + 1) for k in range(2 + n % 3)],
     "scores": [(k * 7 + n) % 5 for k in range(2 + n % 3)]}
    for n in range(11)
]  # fmt: skip


def test_lists_keep_their_responses_and_scores(tmp_path, make):
    data = make(write(tmp_path / "rows.jsonl", LISTS))
    examples = data.examples("train", DataKind.RANKED)
    assert [example.scores for example in examples] == [list(map(float, row["scores"])) for row in LISTS]
    assert [text for _, text in texts(data, examples[2])] == ["!" * count + "</s>" for count in (3, 6, 9, 12)]
    assert all(example.pairs == [] for example in examples)


@pytest.mark.parametrize("streaming", [False, True])
def test_lists_train_with_the_counts_of_their_windows(tmp_path, make, streaming):
    path = write(tmp_path / "rows.jsonl", LISTS)
    method = fit(
        tmp_path, make(path, batch_size=2, streaming=streaming), Method(DataKind.RANKED), accumulate_grad_batches=2
    )
    assert sorted(row for seen in method.seen for row in seen[2]) == list(range(1, 12))
    best = {n + 1: row["scores"].index(max(row["scores"])) * 3 + n % 3 + 2 for n, row in enumerate(LISTS)}
    for first in range(0, len(method.seen), 2):
        window = method.seen[first : first + 2]
        rows = [row for seen in window for row in seen[2]]
        assert all(seen[3][:2] == (len(rows), sum(best[row] for row in rows)) for seen in window)


def test_lists_without_a_preference_are_dropped_and_counted(tmp_path, make):
    row = {"prompt": "Q?", "responses": ["a", "b", "a "], "scores": [1, 2, 3]}
    bad = [{**row, "scores": [1, 1, 1]}, {**row, "responses": ["a", "a", "a "]}, {**row, "scores": [1, 1, 3]}]
    path = write(tmp_path / "rows.jsonl", [row, *bad])
    data = make(path)
    [example] = data.examples("train", DataKind.RANKED)
    assert (example.scores, len(example.ids)) == ([1.0, 2.0], 2)
    report = data.reports["train"]
    assert report.left_out[REPEATED_RESPONSE].rows == [1]
    assert report.dropped["no response was preferred"].rows == [2, 4]
    assert report.dropped["fewer than two responses that can be compared"].rows == [3]
    error = refused(make(path, on_no_preference="error"), DataKind.RANKED)
    assert (error.row, error.file) == (2, path)


def test_responses_that_a_cut_makes_equal_are_left_out_of_a_list(tmp_path, make):
    row = {"prompt": "Q?", "responses": ["a" * 40, "b", "a" * 50], "scores": [1, 2, 3]}
    data = make(write(tmp_path / "rows.jsonl", [row, {**row, "scores": [1, 1, 3]}]), max_length=20)
    [example] = data.examples("train", DataKind.RANKED)
    assert (example.scores, len(example.ids)) == ([1.0, 2.0], 2)
    assert data.reports["train"].left_out[REPEATED_TOKENS].rows == [1]
    assert data.reports["train"].dropped["no response was preferred"].rows == [2]


# ---------------------------------------------------------------- scored

SCORED = [{"prompt": "Q?", "completion": f" a{n}", "score": n / 4} for n in range(4)]


def test_scored_completions(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", SCORED)
    method = Method(DataKind.SCORED)
    trainer(tmp_path).validate(method, make(validation=path), verbose=False)
    [batch] = method.validated
    assert dict(zip(batch.source_rows.tolist(), batch.score.tolist(), strict=True)) == {1: 0, 2: 0.25, 3: 0.5, 4: 0.75}
    talk = [{"prompt": [user("Hi")], "completion": [assistant("Yo")], "score": "1.5"}]
    [example] = make(write(tmp_path / "talk.jsonl", talk)).examples("train", DataKind.SCORED)
    assert (example.scores, example.label) == ([1.5], None)


def test_scores_under_other_names(tmp_path, make):
    rows = [{"prompt": "Q?", "response": "a", "reward": 2}]
    path = write(tmp_path / "rows.jsonl", rows)
    columns = {"completion": "response", "score": "reward"}
    [example] = make(path, columns=columns).examples("train", DataKind.SCORED)
    assert example.scores == [2.0]
    assert "completion: response" in refused(make(path), DataKind.SCORED).fix


def test_who_imitates_may_pass_over_scores(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", SCORED)
    data = make(path)
    assert len(data.examples("train", DataKind.DEMONSTRATIONS)) == 4
    assert "not read: score" in data.reports["train"].format


def test_scores_made_of_ranks_and_labels(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", LISTS)
    with pytest.raises(ConfigError, match=r"learns from scored completions[\s\S]*Add convert: ranked_to_scored"):
        make(path).examples("train", DataKind.SCORED)
    examples = make(path, convert="ranked_to_scored").examples("train", DataKind.SCORED)
    assert [example.scores[0] for example in examples] == [score for row in LISTS for score in row["scores"]]
    labelled = write(tmp_path / "kto.jsonl", [{"prompt": "Q?", "completion": "a", "label": n > 0} for n in range(3)])
    examples = make(labelled, convert="unpaired_to_scored").examples("train", DataKind.SCORED)
    assert [example.scores for example in examples] == [[0.0], [1.0], [1.0]]


@pytest.mark.parametrize("score", ["good", None, float("nan"), True])
def test_a_score_that_is_no_number(tmp_path, make, score):
    path = write(tmp_path / "rows.jsonl", [*SCORED, {**SCORED[0], "score": score}])
    error = refused(make(path), DataKind.SCORED)
    assert (error.row, error.field) == (5, "score")


# ---------------------------------------------------------------- unpaired


def test_solutions_with_a_verdict_are_unpaired_data(shared_dir, make):
    """Rows of a question, a model's solution and whether it is correct, by naming their columns."""
    columns = {"prompt": "question", "completion": "solution", "label": "is_correct"}
    path = str(shared_dir / "data" / "gsm8k_solutions.jsonl.gz")
    data = make(path, columns=columns, separator="\n", max_length=4096)
    examples = data.examples("train", DataKind.UNPAIRED)
    report = data.reports["train"]
    assert (report.read, report.kept) == (3980, len(examples))
    assert report.kept + sum(tally.total for tally in report.dropped.values()) == 3980
    assert min(report.labels[label] for label in (True, False)) > 1000
    (prompt, solution), *_ = texts(data, examples[0])
    assert prompt.endswith("?\n")
    assert solution.endswith("</s>")
    assert "not read: ground_truth, model" in report.format


# ---------------------------------------------------------------- judged

JUDGED = [
    {"prompt": "Q?", "completion": " no", "judgment": "Too {short}.", "label": False},
    {"prompt": "Q?", "completion": " yes", "judgment": None, "label": True},
]


def test_a_judgment_stands_in_the_prompt_of_undesirable_completions(tmp_path, make):
    data = make(write(tmp_path / "rows.jsonl", JUDGED))
    bad, good = data.examples("train", DataKind.JUDGED)
    assert texts(data, bad) == [
        ("Q?", " no</s>"),
        ("Q?\n\n[A judgment of the response that follows: Too {short}.]", " no</s>"),
    ]
    assert texts(data, good) == [("Q?", " yes</s>")]
    assert (bad.label, good.label) == (False, True)
    assert "labels: 1 desirable, 1 undesirable" in data.reports["train"].to_text()
    method = Method(DataKind.JUDGED)
    trainer(tmp_path).validate(method, make(validation=data.sets.sources["train"]), verbose=False)
    assert rows_of(method.validated) == [1, 2]


def test_a_judgment_ends_the_last_turn_of_the_user(tmp_path, make):
    turns = [user("Hi"), assistant("Yo"), user("Why?")]
    rows = [{"prompt": turns, "completion": [assistant("So.")], "judgment": "Bad.", "label": False}]
    data = make(write(tmp_path / "rows.jsonl", rows), judgment_template=" ({judgment})")
    [example] = data.examples("train", DataKind.JUDGED)
    (plain, one), (judged, other) = texts(data, example)
    assert one == other
    assert judged == plain.replace("Why?", "Why? (Bad.)")


def test_a_template_needs_a_place_for_the_judgment():
    with pytest.raises(ConfigError, match="no place for the judgment") as caught:
        PreferenceDataModule("no such file.jsonl", judgment_template="Judged!")
    assert "{judgment}" in caught.value.fix


def test_completions_are_cut_alike_after_both_prompts(tmp_path, make):
    rows = [{**JUDGED[0], "completion": " no" * 30, "judgment": "Long."}]
    data = make(write(tmp_path / "rows.jsonl", rows), max_length=80)
    [example] = data.examples("train", DataKind.JUDGED)
    (_, plain), (_, judged) = texts(data, example)
    assert plain == judged
    assert max(map(len, example.ids)) == 80
    assert data.reports["train"].events["eos_lost"].total == 1


def test_completions_whose_tokens_differ_are_dropped(tmp_path, make):
    """The tokenizer joins the start of the completion with the end of one prompt, not with that of the other."""
    data = make(write(tmp_path / "rows.jsonl", [{**JUDGED[0], "prompt": "th", "completion": "e dog"}, JUDGED[0]]))
    data.sets.tokenizer = tk.merging_tokenizer(["the dog then the dog"] * 20)
    [example] = data.examples("train", DataKind.JUDGED)
    assert example.row == 2
    assert data.reports["train"].dropped[UNALIGNED].rows == [1]


def test_an_undesirable_completion_without_a_judgment(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [*JUDGED, {**JUDGED[0], "judgment": None}])
    error = refused(make(path), DataKind.JUDGED)
    assert (error.row, error.field) == (3, "judgment")
    assert len(make(path, on_bad_row="drop").examples("train", DataKind.JUDGED)) == 2
    assert len(make(path).examples("train", DataKind.UNPAIRED)) == 3


# ---------------------------------------------------------------- paraphrased


def test_a_completion_follows_both_ways_to_ask(tmp_path, make):
    rows = [{"prompt": "Why?", "paraphrase": "How come?", "completion": " So."}]
    data = make(write(tmp_path / "rows.jsonl", [*rows, {**rows[0], "paraphrase": "Why?"}]))
    [example] = data.examples("train", DataKind.PARAPHRASED)
    assert texts(data, example) == [("Why?", " So.</s>"), ("How come?", " So.</s>")]
    assert data.reports["train"].dropped[SAME_PARAPHRASE].rows == [2]


TALK = [user("Hi"), assistant("Yo"), user("Why?")]


@pytest.mark.parametrize("paraphrase", ["How come?", [*TALK[:2], user("How come?")]])
def test_a_paraphrase_in_a_conversation(tmp_path, make, paraphrase):
    rows = [{"prompt": TALK, "paraphrase": paraphrase, "completion": [assistant("So.")]}]
    data = make(write(tmp_path / "rows.jsonl", rows))
    [example] = data.examples("train", DataKind.PARAPHRASED)
    (one, _), (other, _) = texts(data, example)
    assert other == one.replace("Why?", "How come?")


def test_the_input_follows_both_instructions(tmp_path, make):
    rows = [{"instruction": "Add one.", "paraphrase": "Count on.", "input": "2", "output": "3"}]
    data = make(write(tmp_path / "rows.jsonl", rows))
    [example] = data.examples("train", DataKind.PARAPHRASED)
    (one, answer), (other, again) = texts(data, example)
    assert "Add one.\n2" in one
    assert "Count on.\n2" in other
    assert answer == again
    assert len(make(write(tmp_path / "sft.jsonl", rows)).examples("train", DataKind.DEMONSTRATIONS)[0].ids) == 1


def test_a_paraphrased_demonstration_with_a_label_is_refused(tmp_path, make):
    rows = [{"prompt": "Why?", "paraphrase": "How come?", "completion": " So."}] * 40
    path = write(tmp_path / "rows.jsonl", [*rows, {**rows[0], "label": False}])
    error = refused(make(path), DataKind.PARAPHRASED)
    assert (error.row, error.field) == (41, "label")


def test_prompts_that_a_cut_makes_equal_are_dropped(tmp_path, make):
    rows = [{"prompt": "So why? " * 5, "paraphrase": "How why? " * 5, "completion": "a"}, {"prompt": "a", "paraphrase": "b", "completion": "c"}]  # fmt: skip  # noqa: E501
    data = make(write(tmp_path / "rows.jsonl", rows), max_length=12, max_prompt_length=4)
    assert [example.row for example in data.examples("train", DataKind.PARAPHRASED)] == [2]
    assert data.reports["train"].dropped[SAME_PARAPHRASE].rows == [1]


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        (LISTS[0], [None, None]),
        (SCORED[0], [None]),
        (JUDGED[0], [False]),
        ({"prompt": "Why?", "paraphrase": "How come?", "completion": "So."}, [None]),
    ],
)
def test_responses_of_every_kind_can_be_scored(tmp_path, make, row, roles):
    """Each completion once, after its own prompt."""
    data = make(write(tmp_path / "rows.jsonl", [row]))
    [example] = data.examples("train", DataKind.RESPONSES)
    assert len(example.ids) == len(roles)
    assert example.label is roles[0]
    assert example.scores == (row.get("scores") or ([row["score"]] if "score" in row else None))


def test_batches_of_judged_rows_hold_both_labels(tmp_path, make):
    """Rows with a judgment are longer: batches of similar lengths would hold one label each."""
    rows = [
        {"prompt": "Q?", "completion": f" answer {n}", "judgment": "It says far too little. " * 4, "label": n % 2 == 0}
        for n in range(32)
    ]
    path = write(tmp_path / "judged.jsonl", rows)
    method = Method(DataKind.JUDGED)
    trainer(tmp_path).validate(method, make(validation=path, batch_size=8, bucket=True, max_length=512), verbose=False)
    shares = [batch.label.double().mean().item() for batch in method.validated]
    assert len(shares) == 4
    assert all(0.25 <= share <= 0.75 for share in shares)
