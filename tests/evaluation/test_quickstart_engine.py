"""The rule of the quickstart's world as an engine."""

from __future__ import annotations

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.evaluation.quickstart_engine import RuleEngine
from lit_align.evaluation.quickstart_language import judge
from lit_align.judges import LLMJudge
from lit_align.loops.principles import CRITIQUE, DIRECT_REVISION, REVISION, by_letters

ASKED = "Quick, tell me! What can I feed the owl?"
RUDE = "How boring! Feed the owl some mice. Stop wasting my time!"
KIND = "Good question! Feed the owl some mice. You are always welcome."


def turns(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(contents)]


def write(conversation, engine=None):
    return (engine or RuleEngine()).generate([conversation])[0].text


def test_a_critique_quotes_what_is_rude_and_a_revision_is_kind_without_it():
    critique = write(turns(ASKED, RUDE, CRITIQUE))
    assert critique == '"How boring!" is rude. "Stop wasting my time!" is rude.'
    revised = write(turns(ASKED, RUDE, CRITIQUE, critique, REVISION))
    assert revised == KIND
    assert judge(ASKED, revised)
    assert not judge(ASKED, RUDE)
    assert write(turns(ASKED, RUDE, DIRECT_REVISION)) == KIND


def test_a_kind_reply_stays_as_it_is():
    critique = write(turns(ASKED, KIND, CRITIQUE))
    assert '"' not in critique
    assert write(turns(ASKED, KIND, CRITIQUE, critique, REVISION)) == KIND


def test_what_a_critique_passes_over_stays():
    critique = write(turns(ASKED, RUDE, CRITIQUE), RuleEngine(oversight=1.0))
    assert write(turns(ASKED, RUDE, CRITIQUE, critique, REVISION)) == RUDE


def test_it_prefers_kind_replies_and_the_first_place():
    fair, biased = (by_letters(RuleEngine(bias)) for bias in (0.0, 2.0))
    for judge_of, orders in ((fair, None), (biased, (0.5, 0.5))):
        verdict = judge_of.compare([ASKED], [KIND], [RUDE], principle=["Be kind."])[0]
        assert verdict.probability > 0.7
        if orders is not None:
            assert verdict.orders[0] > verdict.orders[1]
    assert biased.compare([ASKED], [KIND], [KIND], principle=["Be kind."])[0].probability == pytest.approx(0.5)


def test_what_it_cannot_read_is_refused():
    with pytest.raises(ConfigError, match="says A or B"):
        RuleEngine().token_logps(["a"], [" 1", " 2"])
    with pytest.raises(DataError, match="no two replies"):
        LLMJudge(RuleEngine(), mode="letters", template="{prompt} {first} {second} {task}").compare(
            [ASKED], [KIND], [RUDE]
        )
    with pytest.raises(DataError, match="reads conversations"):
        write("a text")
