"""Which tokens of a conversation are scored, by hand: spans, end tokens, and what a cut leaves of a mask."""

from __future__ import annotations

import pytest

from lit_align.data.render import Rendered, Span
from lit_align.data.responses import Encoded, Response, Specials, fit, respond

BOS, EOS, END = 1, 2, 3
SPECIALS = Specials(BOS, EOS, frozenset([EOS, END]))
TWO_TURNS = Response(ids=list(range(10, 22)), prompt=4, mask=[1, 1, 0, 0, 0, 1, 1, 1])
"""Four tokens of the prompt, two of an answer, three of the user, three of the last answer."""


@pytest.mark.parametrize(
    ("max_length", "mask"), [(12, [1, 1, 0, 0, 0, 1, 1, 1]), (10, [1, 1, 0, 0, 0, 1]), (6, [1, 1])]
)
def test_a_cut_completion_keeps_its_own_part_of_the_mask(max_length, mask):
    response = fit(TWO_TURNS, max_length, 5, BOS)
    assert response.ids == TWO_TURNS.ids[:max_length]
    assert response.mask == mask
    assert response.completion_cut is (max_length < 12)
    assert not response.prompt_cut


def test_a_cut_prompt_leaves_the_mask_alone():
    response = fit(TWO_TURNS, 10, 2, BOS)
    assert (response.ids, response.prompt, response.mask) == (TWO_TURNS.ids[2:], 2, TWO_TURNS.mask)
    both = fit(TWO_TURNS, 7, 2, BOS)
    assert (both.ids, both.prompt, both.mask) == (TWO_TURNS.ids[2:9], 2, TWO_TURNS.mask[:5])
    assert (both.prompt_cut, both.completion_cut) == (True, True)


def test_a_cut_prompt_keeps_bos():
    response = fit(TWO_TURNS._replace(ids=[BOS, *TWO_TURNS.ids[1:]]), 12, 3, BOS)
    assert (response.ids, response.prompt) == ([BOS, 12, 13, *TWO_TURNS.ids[4:]], 3)


def test_a_turn_is_scored_up_to_its_end_token_and_no_further():
    """`Q:` prompt, `ab` answer, `#` end of turn, `~` what the template adds behind it, `c` user, `de` answer."""
    text = "Q:ab#~cde#"
    encoded = Encoded([10, 11, 12, 13, END, 14, 15, 16, 17, END], [(n, n + 1) for n in range(10)])
    rendered = Rendered(text, [Span(2, 4, 6), Span(7, 9, 10)], "Q:", templated=True)
    response = respond(rendered, encoded, SPECIALS)
    assert response.ids == encoded.ids
    assert response.prompt == 2
    assert response.mask == [1, 1, 1, 0, 0, 1, 1, 1]
