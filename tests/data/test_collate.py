"""Batches of each kind: indices, mismatched rows, margins, cached values."""

from __future__ import annotations

import pytest
import torch

from lit_align.core.batch import DataKind, Example, Layout
from lit_align.data.collate import Collator, Drawn

LAYOUTS = list(Layout)


def pair(row, prompt, *responses, **more):
    pairs = more.pop("pairs", [(0, 1)])
    return Example(row, [prompt + r for r in responses], [len(prompt)] * len(responses), pairs=pairs, **more)


def single(row, prompt, completion, label=None, masks=None, **more):
    return Example(row, [prompt + completion], [len(prompt)], masks, label=label, **more)


def responses_of(rows):
    """The scored tokens of each response."""
    return [rows.target[rows.response == number].tolist() for number in range(len(rows.response_lengths))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs(layout):
    examples = [
        pair(5, [1, 2], [10, 11], [20]),
        pair(9, [3], [30], [31], [32], pairs=[(0, 1), (2, 1)]),
    ]
    batch = Collator(DataKind.PAIRS, layout)(Drawn(examples))
    assert responses_of(batch.rows) == [[10, 11], [20], [30], [31], [32]]
    assert batch.chosen.tolist() == [0, 2, 4]
    assert batch.rejected.tolist() == [1, 3, 3]
    assert batch.source_rows.tolist() == [5, 9, 9]
    assert batch.margin is None
    assert batch.reference_logps is None
    assert batch.prompt is None
    assert batch.counts()[:2] == (3.0, 4.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts_of_pairs_are_scored_on_request(layout):
    examples = [pair(1, [1, 2, 3], [10], [20]), pair(2, [4, 5], [30], [31], [32], pairs=[(0, 1), (2, 1)])]
    batch = Collator(DataKind.PAIRS, layout, score_prompts=True)(Drawn(examples))
    assert batch.prompt.tolist() == [5, 6, 6]
    assert [responses_of(batch.rows)[number] for number in (5, 6)] == [[2, 3], [5]]


def test_missing_margins_are_0_and_reference_values_need_all_examples():
    with_values = pair(1, [1], [2], [3], margins=[0.5], reference_logps=[-1.0, -2.0])
    without = pair(2, [1], [2], [3])
    collate = Collator(DataKind.PAIRS, Layout.PADDED)
    batch = collate(Drawn([with_values, with_values]))
    assert batch.margin.tolist() == [0.5, 0.5]
    assert batch.margin.dtype == torch.float64
    assert batch.reference_logps.tolist() == [-1.0, -2.0, -1.0, -2.0]
    batch = collate(Drawn([with_values, without]))
    assert batch.margin.tolist() == [0.5, 0.0]
    assert batch.reference_logps is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpaired_with_the_next_completion(layout):
    examples = [single(1, [1], [10], True), single(2, [2, 2], [20, 21], False), single(3, [3], [30], True)]
    batch = Collator(DataKind.UNPAIRED, layout, mismatched=True)(Drawn(examples))
    assert batch.label.tolist() == [True, False, True]
    assert responses_of(batch.rows) == [[10], [20, 21], [30]]
    assert responses_of(batch.kl_rows) == [[20, 21], [30], [10]]
    padded = Collator(DataKind.UNPAIRED, Layout.PADDED, mismatched=True)(Drawn(examples)).kl_rows
    rows = [row[:length].tolist() for row, length in zip(padded.input_ids, padded.row_lengths, strict=True)]
    assert rows == [[1, 20, 21], [2, 2, 30], [3, 10]]
    assert batch.counts() == (3, 4, 1, 2, 0, 0)


def test_no_mismatched_rows_unless_asked_for():
    batch = Collator(DataKind.UNPAIRED, Layout.PACKED)(Drawn([single(1, [1], [10], True), single(2, [2], [20], True)]))
    assert batch.kl_rows is None


def test_equal_completions_are_left_out_of_mismatched_rows():
    collate = Collator(DataKind.UNPAIRED, Layout.PACKED, mismatched=True)
    same = [single(1, [1], [10], True), single(2, [2], [10], False)]
    assert collate(Drawn(same)).kl_rows is None
    three = [*same, single(3, [3], [30], True)]
    assert responses_of(collate(Drawn(three)).kl_rows) == [[30], [10]]


def test_a_batch_of_one_borrows_from_the_data():
    collate = Collator(DataKind.UNPAIRED, Layout.PACKED, mismatched=True)
    own, other = single(1, [1], [10], True), single(2, [2], [20], False)
    batch = collate(Drawn([own], other))
    assert responses_of(batch.rows) == [[10]]
    assert responses_of(batch.kl_rows) == [[20]]
    assert collate(Drawn([own], own)).kl_rows is None
    # With two, the neighbour in the data plays no part.
    assert responses_of(collate(Drawn([own, other], single(3, [3], [30], True))).kl_rows) == [[20], [10]]


MISMATCHED = Collator(DataKind.UNPAIRED, Layout.PACKED, mismatched=True)
CHOSEN, REJECTED = single(1, [1], [10], True), single(1, [1], [11], False)
"""Of one pair."""


def test_completions_come_from_another_prompt():
    others = [single(2, [2], [20], True), single(2, [2], [21], False)]
    batch = MISMATCHED(Drawn([CHOSEN, REJECTED, *others]))
    assert responses_of(batch.kl_rows) == [[20], [20], [10], [10]]
    same_text = single(9, [1], [12], True)
    assert responses_of(MISMATCHED(Drawn([CHOSEN, same_text, *others])).kl_rows) == [[20], [20], [10], [10]]
    merged = single(1, [1, 7], [13], True)
    assert responses_of(MISMATCHED(Drawn([CHOSEN, merged, others[0]])).kl_rows) == [[20], [20], [10]]


def test_a_batch_of_one_prompt_borrows_from_the_data():
    other = single(2, [2], [20], True)
    assert responses_of(MISMATCHED(Drawn([CHOSEN, REJECTED], other)).kl_rows) == [[20], [20]]
    assert MISMATCHED(Drawn([CHOSEN, REJECTED])).kl_rows is None


def test_the_neighbour_is_the_next_with_another_prompt():
    data = [CHOSEN, REJECTED, single(9, [1], [12], True), single(2, [2], [20], True)]
    assert MISMATCHED.draw(data, [0]) == Drawn([data[0]], data[3])
    assert MISMATCHED.draw(data, [0, 1]) == Drawn(data[:2], data[3])
    assert MISMATCHED.draw(data, [3]) == Drawn([data[3]], data[0])
    assert MISMATCHED.draw(data, [1, 3]) == Drawn([data[1], data[3]], indices=[1, 3])
    assert MISMATCHED.draw(data[:3], [1]) == Drawn([data[1]])
    assert Collator(DataKind.UNPAIRED, Layout.PACKED).draw(data, [0]) == Drawn([data[0]], indices=[0])


def test_mismatched_rows_keep_masks_and_the_limit_on_length():
    masked = single(2, [2], [20, 21, 22], False, masks=[[0, 1, 1]])
    long_prompt = single(1, [1, 1, 1, 1], [10], True)
    collate = Collator(DataKind.UNPAIRED, Layout.PACKED, mismatched=True, max_length=6)
    assert responses_of(collate(Drawn([long_prompt, masked])).kl_rows) == [[21], [10]]
    tight = Collator(DataKind.UNPAIRED, Layout.PACKED, mismatched=True, max_length=5)
    assert responses_of(tight(Drawn([long_prompt, masked])).kl_rows) == [[10]]


def test_demonstrations_with_masks():
    examples = [single(1, [1], [10, 11, 12], masks=[[1, 0, 1]]), single(4, [2], [20])]
    batch = Collator(DataKind.DEMONSTRATIONS, Layout.SHARED)(Drawn(examples))
    assert responses_of(batch.rows) == [[10, 12], [20]]
    assert batch.source_rows.tolist() == [1, 4]
    assert batch.counts()[:2] == (2.0, 3.0)


def test_prompts_are_padded_on_the_left():
    examples = [Example(1, [[5, 6, 7]], [3]), pair(2, [8], [9], [10])]
    batch = Collator(DataKind.PROMPTS, Layout.PADDED, pad_id=6)(Drawn(examples))
    assert batch.input_ids.tolist() == [[5, 6, 7], [6, 6, 8]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.source_rows.tolist() == [1, 2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lists_come_best_first(layout):
    examples = [
        pair(5, [1, 2], [10, 11], [20], [30, 31, 32], pairs=[], scores=[1.0, 3.0, 2.0]),
        pair(9, [3], [40], [50, 51], pairs=[], scores=[-2.0, -1.0]),
    ]
    batch = Collator(DataKind.RANKED, layout)(Drawn(examples))
    assert responses_of(batch.rows) == [[10, 11], [20], [30, 31, 32], [40], [50, 51]]
    assert batch.places.tolist() == [[1, 2, 0], [4, 3, 0]]
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.scores.tolist() == [[3.0, 2.0, 1.0], [-1.0, -2.0, 0.0]]
    assert batch.scores.dtype == torch.float64
    assert batch.source_rows.tolist() == [5, 9]
    assert batch.reference_logps is None
    assert batch.counts()[:2] == (2, 1 + 2)


def test_equal_scores_of_a_list_stay_in_order():
    tied = pair(1, [1], [10], [20], [30], [40], pairs=[], scores=[1.0, 2.0, 1.0, 2.0], reference_logps=[-1.0] * 4)
    batch = Collator(DataKind.RANKED, Layout.PADDED)(Drawn([tied]))
    assert batch.places.tolist() == [[1, 3, 0, 2]]
    assert batch.reference_logps.tolist() == [-1.0] * 4


def test_scores_and_timestamps_of_pairs_need_all_pairs():
    pairs = [(0, 1), (2, 1)]
    both = pair(1, [1], [10], [20], [30], pairs=pairs, scores=[0.5, 0.25, 0.75], timestamp=7.0)
    without = pair(2, [1], [10], [20])
    collate = Collator(DataKind.PAIRS, Layout.SHARED)
    batch = collate(Drawn([both, both._replace(timestamp=8.0)]))
    assert batch.chosen_scores.tolist() == [0.5, 0.75] * 2
    assert batch.rejected_scores.tolist() == [0.25, 0.25] * 2
    assert batch.timestamp.tolist() == [7.0, 7.0, 8.0, 8.0]
    assert {t.dtype for t in (batch.chosen_scores, batch.rejected_scores, batch.timestamp)} == {torch.float64}
    mixed = collate(Drawn([both, without]))
    assert (mixed.chosen_scores, mixed.rejected_scores, mixed.timestamp) == (None, None, None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_targets_of_pairs(layout):
    """A pair without one stays close to its chosen response, whatever else is in the batch."""
    with_target = pair(1, [1], [10], [20], [30, 31], target=2)
    without = pair(2, [2], [40], [50], [60], pairs=[(1, 0), (2, 0)])
    batch = Collator(DataKind.PAIRS, layout)(Drawn([with_target, without]))
    assert responses_of(batch.rows)[2] == [30, 31]
    assert (batch.chosen.tolist(), batch.target.tolist()) == ([0, 4, 5], [2, 4, 5])
    assert Collator(DataKind.PAIRS, layout)(Drawn([without])).target is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scored_completions(layout):
    examples = [single(1, [1], [10], scores=[0.5]), single(2, [2], [20, 21], scores=[-1.5])]
    batch = Collator(DataKind.SCORED, layout, mismatched=True)(Drawn(examples))
    assert batch.label is None
    assert (batch.score.tolist(), batch.score.dtype) == ([0.5, -1.5], torch.float64)
    assert responses_of(batch.kl_rows) == [[20, 21], [10]]
    assert batch.counts()[:2] == (2, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_judged_completions(layout):
    bad = Example(1, [[1, 2, 10, 11], [1, 2, 3, 10, 11]], [2, 3], label=False)
    batch = Collator(DataKind.JUDGED, layout)(Drawn([bad, single(4, [5], [30], True), bad._replace(row=6)]))
    assert responses_of(batch.rows) == [[10, 11], [10, 11], [30], [10, 11], [10, 11]]
    assert batch.plain.tolist() == [0, 2, 3]
    assert batch.judged.tolist() == [1, -1, 4]
    assert batch.label.tolist() == [False, True, False]
    assert batch.source_rows.tolist() == [1, 4, 6]
    assert batch.counts()[:2] == (3, 5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paraphrased_prompts(layout):
    examples = [Example(row, [[1, 10], [2, 2, 10]], [1, 2]) for row in (3, 4)]
    batch = Collator(DataKind.PARAPHRASED, layout)(Drawn(examples))
    assert (batch.original.tolist(), batch.paraphrase.tolist()) == ([0, 2], [1, 3])
    assert batch.source_rows.tolist() == [3, 4]
    assert batch.counts()[:2] == (2, 2)


def test_examples_with_the_same_prompt_are_one_group():
    one = Example(1, [[1, 2, 10], [5, 10]], [2, 1])
    examples = [one, one._replace(row=2, ids=[[1, 2, 11, 12], [6, 11, 12]]), one._replace(row=3, prompt_lengths=[1, 1])]
    collate = Collator(DataKind.PARAPHRASED, Layout.PADDED)
    first, second, third = collate(Drawn(examples)).group.tolist()
    assert first == second != third
    assert collate(Drawn(examples[2:])).group.tolist() == [third]
