"""Rows of the three layouts, written out by hand, and properties that hold for any examples."""

from __future__ import annotations

import random

import pytest
import torch

from lit_align.core.batch import Example, Layout
from lit_align.core.errors import DataError
from lit_align.core.layout import build_rows, flat_length

PAIR = Example(row=1, ids=[[5, 6, 7, 10, 11], [5, 6, 7, 20]], prompt_lengths=[3, 3])
SINGLE = Example(row=2, ids=[[8, 30, 31]], prompt_lengths=[1])


def test_padded_rows():
    rows = build_rows([PAIR, SINGLE], Layout.PADDED, pad_id=99)
    assert rows.input_ids.tolist() == [[5, 6, 7, 10, 11], [5, 6, 7, 20, 99], [8, 30, 31, 99, 99]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert rows.row_lengths.tolist() == [5, 4, 3]
    assert rows.segments is None
    assert rows.target.tolist() == [10, 11, 20, 30, 31]
    assert rows.pred_index.tolist() == [2, 3, 7, 10, 11]
    assert rows.response.tolist() == [0, 0, 1, 2, 2]
    assert rows.response_lengths.tolist() == [2, 1, 2]
    assert rows.last_index.tolist() == [4, 8, 12]


def test_packed_row():
    rows = build_rows([PAIR, SINGLE], Layout.PACKED)
    assert rows.input_ids.tolist() == [[5, 6, 7, 10, 11, 5, 6, 7, 20, 8, 30, 31]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]]
    assert rows.row_lengths.tolist() == [12]
    assert rows.segments.query_bounds.tolist() == rows.segments.key_bounds.tolist() == [0, 5, 9, 12]
    assert rows.segments.key_index.tolist() == list(range(12))
    assert (rows.segments.max_query, rows.segments.max_key) == (5, 5)
    assert rows.pred_index.tolist() == [2, 3, 7, 9, 10]
    assert rows.last_index.tolist() == [4, 8, 11]


def test_shared_row():
    rows = build_rows([PAIR, SINGLE], Layout.SHARED)
    assert rows.input_ids.tolist() == [[5, 6, 7, 10, 11, 20, 8, 30, 31]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    assert rows.segments.query_bounds.tolist() == [0, 5, 6, 9]
    assert rows.segments.key_bounds.tolist() == [0, 5, 9, 12]
    assert rows.segments.key_index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8]
    assert rows.segments.plan == ((0, 5, 0, 0), (5, 6, 0, 3), (6, 9, 6, 6))
    assert (rows.segments.max_query, rows.segments.max_key) == (5, 5)
    assert rows.segments.query_bounds.dtype == rows.segments.key_bounds.dtype == torch.int32
    # The last token of the prompt predicts the first token of both responses.
    assert rows.pred_index.tolist() == [2, 3, 2, 6, 7]
    assert rows.target.tolist() == [10, 11, 20, 30, 31]
    assert rows.last_index.tolist() == [4, 5, 8]


@pytest.mark.parametrize("layout", Layout)
def test_tokens_are_counted_with_their_prompts_whatever_the_layout(layout):
    assert build_rows([PAIR, SINGLE], layout, score_prompts=True).num_tokens == 5 + 4 + 3


def test_only_the_common_prefix_is_shared():
    """The tokenizer merged the end of the second prompt with its response."""
    example = Example(row=1, ids=[[1, 2, 3, 40, 41], [1, 2, 9, 50]], prompt_lengths=[3, 3])
    rows = build_rows([example], Layout.SHARED)
    assert rows.input_ids.tolist() == [[1, 2, 3, 40, 41, 9, 50]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    assert rows.segments.plan == ((0, 5, 0, 0), (5, 7, 0, 2))
    assert rows.target.tolist() == [40, 41, 50]
    assert rows.pred_index.tolist() == [2, 3, 5]


def test_prompts_of_different_length_share_up_to_the_shorter():
    example = Example(row=1, ids=[[1, 2, 3, 4, 40], [1, 2, 3, 4, 50]], prompt_lengths=[4, 2])
    rows = build_rows([example], Layout.SHARED)
    assert rows.segments.plan == ((0, 5, 0, 0), (5, 8, 0, 2))
    assert rows.target.tolist() == [40, 3, 4, 50]


def test_responses_are_never_merged_even_where_they_begin_alike():
    example = Example(row=1, ids=[[1, 7, 8], [1, 7, 9]], prompt_lengths=[1, 1])
    rows = build_rows([example], Layout.SHARED)
    assert rows.input_ids.tolist() == [[1, 7, 8, 7, 9]]


@pytest.mark.parametrize("layout", Layout)
def test_masks_select_the_targets(layout):
    example = Example(
        row=1,
        ids=[[1, 2, 10, 11, 12, 13], [1, 2, 20, 21]],
        prompt_lengths=[2, 2],
        masks=[[1, 0, 0, 1], [0, 1]],
    )
    rows = build_rows([example, SINGLE], layout)
    assert rows.target.tolist() == [10, 13, 21, 30, 31]
    assert rows.response.tolist() == [0, 0, 1, 2, 2]
    assert rows.response_lengths.tolist() == [2, 1, 2]


@pytest.mark.parametrize("layout", Layout)
def test_score_prompts_adds_a_response_per_example(layout):
    rows = build_rows([PAIR, SINGLE._replace(ids=[[8, 9, 30]], prompt_lengths=[2])], layout, score_prompts=True)
    assert rows.response_lengths.tolist() == [2, 1, 1, 2, 1]
    assert rows.target.tolist() == [10, 11, 20, 30, 6, 7, 9]
    assert rows.response.tolist() == [0, 0, 1, 2, 3, 3, 4]
    flat = rows.input_ids.flatten()
    assert flat[rows.pred_index].tolist() == [7, 10, 7, 9, 5, 6, 8]
    assert flat[rows.last_index].tolist() == [11, 20, 30, 7, 9]


@pytest.mark.parametrize("layout", Layout)
def test_without_a_prompt_scoring_starts_at_the_second_token(layout):
    example = Example(row=1, ids=[[4, 5, 6], [7, 8]], prompt_lengths=[0, 0], masks=[[1, 0, 1], [1, 1]])
    rows = build_rows([example], layout)
    assert rows.target.tolist() == [6, 8]
    assert rows.input_ids.flatten()[rows.pred_index].tolist() == [5, 7]


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize(
    "empty",
    [
        Example(row=7, ids=[[1, 2, 3], [1, 2]], prompt_lengths=[2, 2]),
        Example(row=7, ids=[[1, 2, 3], [1, 2, 4]], prompt_lengths=[2, 2], masks=[[1], [0]]),
        Example(row=7, ids=[[3]], prompt_lengths=[0]),
    ],
)
def test_a_response_without_scored_tokens_is_an_error(layout, empty):
    with pytest.raises(DataError, match="completion has no token to score") as caught:
        build_rows([PAIR, empty], layout)
    assert caught.value.row == 7
    assert caught.value.field == "completion"


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("masks", [None, [[1, 1]]])
def test_a_prompt_may_have_no_token_to_score(layout, masks):
    empty = Example(row=3, ids=[[40, 41, 42]], prompt_lengths=[0])
    rows = build_rows([SINGLE._replace(masks=masks), PAIR, empty], layout, score_prompts=True)
    assert rows.response_lengths.tolist() == [2, 2, 1, 2, 0, 2, 0]
    assert rows.target.tolist() == [30, 31, 10, 11, 20, 41, 42, 6, 7]
    assert rows.response.tolist() == [0, 0, 1, 1, 2, 3, 3, 5, 5]
    assert rows.input_ids.flatten()[rows.last_index].tolist() == [31, 11, 20, 42, 8, 7, 40]


def test_a_completion_must_have_one_even_if_prompts_are_scored():
    with pytest.raises(DataError, match="completion has no token to score"):
        build_rows([SINGLE, Example(row=7, ids=[[1, 2, 3]], prompt_lengths=[3])], Layout.SHARED, score_prompts=True)


def random_examples(seed, count=6):
    rng = random.Random(seed)
    examples = []
    for row in range(count):
        prompt = [rng.randrange(3, 300) for _ in range(rng.randint(1, 20))]
        ids, masks = [], []
        for _ in range(rng.randint(1, 4)):
            completion = [rng.randrange(3, 300) for _ in range(rng.randint(1, 12))]
            ids.append([*prompt, *completion])
            masks.append([1, *(rng.randint(0, 1) for _ in completion[1:])])
        examples.append(Example(row + 1, ids, [len(prompt)] * len(ids), masks if rng.random() < 0.5 else None))
    return examples


def visible_path(rows, position):
    """Tokens that a position of a packed or shared row attends to, with their positions."""
    segments = rows.segments
    for start, end, prefix_start, prefix_end in segments.plan:
        if start <= position < end:
            seen = [*range(prefix_start, prefix_end), *range(start, position + 1)]
            return rows.input_ids[0, seen].tolist(), rows.position_ids[0, seen].tolist()
    raise AssertionError("a position outside all segments")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("layout", [Layout.PACKED, Layout.SHARED])
def test_every_target_is_predicted_from_exactly_its_own_path(seed, layout):
    examples = random_examples(seed)
    rows = build_rows(examples, layout, score_prompts=True)
    paths = [ids for example in examples for ids in example.ids]
    paths += [example.ids[0] for example in examples]
    for n in range(len(rows.target)):
        path, positions = visible_path(rows, int(rows.pred_index[n]))
        whole = paths[int(rows.response[n])]
        assert [*path, int(rows.target[n])] == whole[: len(path) + 1]
        assert positions == list(range(len(path)))


@pytest.mark.parametrize("seed", range(5))
def test_layouts_score_the_same_tokens(seed):
    examples = random_examples(seed)
    padded, packed, shared = (build_rows(examples, layout) for layout in Layout)
    for other in (packed, shared):
        for name in ("target", "response", "response_lengths"):
            assert torch.equal(getattr(padded, name), getattr(other, name))
        for rows in (padded, other):
            assert torch.equal(
                rows.position_ids.flatten()[rows.pred_index], padded.position_ids.flatten()[padded.pred_index]
            )
    assert sum(flat_length(e, Layout.PACKED) for e in examples) == packed.input_ids.numel()
    assert sum(flat_length(e, Layout.SHARED) for e in examples) == shared.input_ids.numel()
    assert sum(flat_length(e, Layout.PADDED) for e in examples) == int(padded.row_lengths.sum())


@pytest.mark.parametrize("seed", range(3))
def test_keys_of_the_plan_and_of_the_index_are_the_same(seed):
    segments = build_rows(random_examples(seed), Layout.SHARED).segments
    for number, (start, end, prefix_start, prefix_end) in enumerate(segments.plan):
        keys = segments.key_index[segments.key_bounds[number] : segments.key_bounds[number + 1]]
        assert keys.tolist() == [*range(prefix_start, prefix_end), *range(start, end)]
        assert segments.query_bounds[number : number + 2].tolist() == [start, end]
