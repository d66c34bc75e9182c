"""How a model's texts become tokens, in a file beside its weights: what a run knows and its tokenizer does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_align.core.errors import ConfigError
from lit_align.data.steps import STEP_SEPARATOR

if TYPE_CHECKING:
    from lit_align.data.pipeline import Recipe

FILE = "lit_align_text.json"
"""Stands in the folder of an exported model."""


@dataclass(frozen=True)
class TextSettings:
    """Settings of `PreferenceDataModule` that make tokens of texts; the chat template stands in the tokenizer."""

    separator: str = ""
    as_chat: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    max_length: int = 1024
    max_prompt_length: int | None = None
    step_separator: str = STEP_SEPARATOR

    @classmethod
    def of(cls, recipe: Recipe) -> TextSettings:
        """The part of a recipe that concerns a model's texts."""
        return cls(**{one.name: getattr(recipe, one.name) for one in fields(cls)})

    def but(self, **given: Any) -> TextSettings:
        """These settings with others in place of some; None stands for what is here, and an empty prompt for none."""
        values = asdict(self) | {name: value for name, value in given.items() if value is not None}
        return TextSettings(**values | {"system_prompt": values["system_prompt"] or None})

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


_TYPES: dict[str, tuple[type, ...]] = {
    "separator": (str,),
    "as_chat": (bool,),
    "system_prompt": (str, type(None)),
    "chat_template_kwargs": (dict,),
    "max_length": (int,),
    "max_prompt_length": (int, type(None)),
    "step_separator": (str,),
}


def text_settings_of(folder: str | Path) -> TextSettings | None:
    """What stands beside a model; None where there is no such file, as for names on the hub.

    Raises:
        ConfigError: the file is damaged, or says what is not known here.
    """
    path = Path(folder).expanduser() / FILE
    return read_text_settings(path) if path.is_file() else None


def unlike_exported(model: str, recipe: Recipe) -> list[str]:
    """What to say where data are read otherwise than the model in a folder was trained on, limits on length aside.

    Raises:
        ConfigError: what stands beside the model cannot be read.
    """
    exported = text_settings_of(model)
    if exported is None:
        return []
    names = ("separator", "as_chat", "system_prompt", "chat_template_kwargs", "step_separator")
    both = [(name, getattr(recipe, name), getattr(exported, name)) for name in names]
    return [f"data.{name} is {here!r}, and {model}/{FILE} has {there!r}" for name, here, there in both if here != there]


def read_text_settings(path: Path) -> TextSettings:
    """The settings of a file; those that it does not name are the ordinary ones.

    Raises:
        ConfigError: it is damaged, or says what is not known here.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("the file of text settings is no JSON", got=f"{path}: {error}", fix=_FIX) from error
    if not isinstance(values, dict):
        raise ConfigError("the file of text settings holds no object", got=f"{path}: {values!r:.80}", fix=_FIX)
    _check(values, path)
    return TextSettings(**values)


def _check(values: Mapping[str, Any], path: Path) -> None:
    for name, value in values.items():
        if name not in _TYPES:
            fix = f"the file holds {', '.join(_TYPES)}; a newer lit-align may know more"
            raise ConfigError("the file of text settings says what is not known", got=f"{path}: {name}", fix=fix)
        # A bool is an int to Python.
        wrong = isinstance(value, bool) and bool not in _TYPES[name]
        if wrong or not isinstance(value, _TYPES[name]):
            raise ConfigError("a text setting is of a wrong type", got=f"{path}: {name}: {value!r:.80}", fix=_FIX)


_FIX = "export the model anew with `lit-align export`, or remove the file to use the ordinary settings"
