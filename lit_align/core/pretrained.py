"""Reading Hugging Face folders and hub repositories, with errors that say what to do.

Everything that can be wrong with a name that a user typed is caught here: `core/policy.py` builds models from what
this module has found to be readable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lit_align.core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def load_config(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """Read the configuration of a causal language model.

    Args:
        name: folder or hub name.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.

    Raises:
        ConfigError: there is no such model, or not one that can be trained here.
    """
    from transformers import AutoConfig

    check_folder(name)
    with explained(name, trust_remote_code):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            "the policy must be a decoder-only (causal) language model",
            got=f"{name}: {config.model_type}, an encoder-decoder",
            fix="choose a causal model, such as Llama, Qwen, Mistral or Gemma",
        )
    return config


def adapter_base(name: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """Name and revision of the model that an adapter was trained on; None where `name` is not a PEFT adapter.

    Raises:
        ConfigError: there is no such folder, or the adapter does not say what its base is.
    """
    check_folder(name)
    if not _is_adapter(name, revision):
        return None
    from peft import PeftConfig

    with explained(name):
        config = PeftConfig.from_pretrained(name, revision=revision)
    base = config.base_model_name_or_path
    if not base or Path(base).resolve() == Path(name).resolve():
        raise ConfigError(
            "the adapter does not name the model that it belongs to",
            got=f"{name}/adapter_config.json: base_model_name_or_path: {base!r}",
            fix="set base_model_name_or_path to the folder or hub name of the base model",
        )
    return base, config.revision


def load_tokenizer(
    name: str, revision: str | None = None, trust_remote_code: bool = False, chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, or of the base model where an adapter came without one.

    Args:
        name: folder or hub name.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the tokenizer.
        chat_template: Jinja text, or path of a file that holds it, in place of the model's own.

    Raises:
        ConfigError: there is no such tokenizer, or no such template file.
    """
    from transformers import AutoTokenizer

    check_folder(name)
    folder = Path(name)
    without_own = folder.is_dir() and not any(folder.glob("*token*"))
    base = adapter_base(name, revision) if without_own else None
    if base is not None:
        return load_tokenizer(*base, trust_remote_code, chat_template)
    if without_own:
        raise ConfigError(
            "the model's folder has no tokenizer",
            got=f"{name}: {_listing(folder)}",
            fix="copy the tokenizer's files there, or name another folder as data.tokenizer",
        )
    with explained(name, trust_remote_code, what="tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)
    return tokenizer


def read_template(text_or_path: str) -> str:
    """Jinja text, given as such or as the path of a file.

    Raises:
        ConfigError: there is no such file.
    """
    if "{" in text_or_path:
        return text_or_path
    path = Path(text_or_path)
    if not path.is_file():
        raise ConfigError(
            "the chat template is neither Jinja text nor a file",
            got=text_or_path or "an empty text",
            fix="give the path of a .jinja file, or the template itself",
        )
    return path.read_text(encoding="utf-8")


def check_folder(name: str) -> None:
    """Refuse a path that is not a model's folder; hub names pass.

    Raises:
        ConfigError: the folder does not exist, or holds something else.
    """
    path = Path(name)
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ConfigError("the folder does not hold a model", got=_listing(path, name), fix=_folder_fix(path))
    elif path.is_file():
        raise ConfigError(
            "the policy must be a folder or a hub name",
            got=f"the file {name}",
            fix=f"lit-align export --ckpt {name} makes a folder of a checkpoint, or name the folder of the model",
        )
    elif _looks_like_path(name):
        raise ConfigError(
            "the model's folder does not exist",
            got=f"{name} (working directory: {os.getcwd()})",
            fix="check the spelling; a hub name has the form organisation/model",
        )


@contextmanager
def explained(name: str, trust_remote_code: bool = False, what: str = "model") -> Iterator[None]:
    """Turn what transformers, safetensors and the hub raise while loading `name` into a ConfigError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        text = " ".join(str(error).split())
        raise ConfigError(
            f"the {what} cannot be loaded", got=f"{name}: {text[:400]}", fix=_fix(name, text, trust_remote_code)
        ) from error


def _fix(name: str, text: str, trust_remote_code: bool) -> str:
    """What to do about an error of the libraries, by its words."""
    is_folder = Path(name).is_dir()
    remedies = {
        "trust_remote_code": "the model brings code of its own; if you trust it, set model.trust_remote_code: true",
        "attention implementation": "set model.attention: eager",
        "flash": "install flash-attn, or leave model.attention unset",
        "gated": "accept the model's licence on the hub and log in with `hf auth login`",
        "ignore_mismatched_sizes": "weights and config.json disagree; a reward model must have one label",
        "does not recognize this architecture": "install a newer transformers",
        "Unrecognized configuration class": "choose an architecture that transformers offers with this head",
        "sentencepiece": "pip install sentencepiece",
        "Target modules": "name modules that the model has, or use target_modules: all-linear",
    }
    if trust_remote_code:
        del remedies["trust_remote_code"]
    for words, fix in remedies.items():
        if words in text:
            return fix
    if is_folder:
        return "a file in the folder is missing, damaged or of another format; copy or download it again"
    return (
        "if it is on the hub: check the name, the revision and the network (offline, only models that were "
        "downloaded before load); if it is a folder: it does not exist here"
    )


def _is_adapter(name: str, revision: str | None) -> bool:
    folder = Path(name)
    if not folder.is_dir():
        from transformers.utils import find_adapter_config_file

        with explained(name):
            return find_adapter_config_file(name, revision=revision) is not None
    weights = any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    return (folder / "adapter_config.json").is_file() and not weights


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name


def _folder_fix(path: Path) -> str:
    if (path / "config.yaml").is_file() or (path / "checkpoints").is_dir():
        return f"this is the folder of a run: lit-align export --run {path} makes a model of it"
    inside = [child.name for child in sorted(path.iterdir()) if (child / "config.json").is_file()]
    if inside:
        return f"name the folder inside it: {path / inside[0]}"
    return "a model's folder holds config.json, model.safetensors and the tokenizer"


def _listing(folder: Path, name: str = "") -> str:
    files = sorted(child.name for child in folder.iterdir())
    shown = ", ".join(files[:6]) + (", ..." if len(files) > 6 else "")
    return (f"{name}: " if name else "") + (shown or "nothing in it")
