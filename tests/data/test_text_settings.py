"""What stands beside an exported model of how its texts become tokens."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from lit_align.core.errors import ConfigError
from lit_align.data.pipeline import Recipe
from lit_align.data.text_settings import FILE, TextSettings, text_settings_of, unlike_exported

OWN = TextSettings(
    separator="\n",
    as_chat=True,
    system_prompt="Be \u00fcber kind.",
    chat_template_kwargs={"thinking": False},
    max_length=99,
    max_prompt_length=33,
    step_separator="<step>",
)


def put(folder, text):
    (folder / FILE).write_text(text, encoding="utf-8")
    return folder


def test_what_is_written_is_read(tmp_path):
    assert text_settings_of(put(tmp_path, OWN.to_json())) == OWN
    assert TextSettings.of(Recipe(**vars(OWN))) == OWN


def test_no_setting_is_as_it_would_be_anyway():
    """Or the test above could not tell whether it was read."""
    assert [
        one.name for one in fields(TextSettings) if getattr(OWN, one.name) == getattr(TextSettings(), one.name)
    ] == []
    assert TextSettings.of(Recipe()) == TextSettings()


def test_there_may_be_no_file(tmp_path):
    assert text_settings_of(tmp_path) is None
    assert text_settings_of("organisation/model") is None


def test_a_setting_that_is_not_named_is_as_usual(tmp_path):
    assert text_settings_of(put(tmp_path, '{"separator": " "}')) == TextSettings(separator=" ")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"seperator": "\n"}, "not known"),
        ({"max_length": "12"}, "wrong type"),
        ({"max_length": True}, "wrong type"),
        ({"as_chat": 1}, "wrong type"),
        ({"separator": None}, "wrong type"),
        (["separator"], "no object"),
    ],
)
def test_what_cannot_be_meant_is_refused(content, what, tmp_path):
    with pytest.raises(ConfigError, match=what) as caught:
        text_settings_of(put(tmp_path, json.dumps(content)))
    assert str(tmp_path / FILE) in str(caught.value)


def test_a_damaged_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"no JSON[\\s\\S]*{FILE}"):
        text_settings_of(put(tmp_path, '{"separator": '))


def test_what_is_given_goes_first():
    assert OWN.but(separator="", as_chat=False, max_length=7) == TextSettings(
        **vars(OWN) | {"separator": "", "as_chat": False, "max_length": 7}
    )
    assert OWN.but(separator=None, system_prompt=None) == OWN
    assert OWN.but(system_prompt="").system_prompt is None


def test_data_that_are_read_otherwise_are_named(tmp_path):
    put(tmp_path, TextSettings(separator="\n", max_length=7).to_json())
    (note,) = unlike_exported(str(tmp_path), Recipe())
    assert note.startswith("data.separator is '', and")
    assert unlike_exported(str(tmp_path), Recipe(separator="\n")) == []
