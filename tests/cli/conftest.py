"""One parser for all tests that only parse, and a folder as a user would have one."""

from __future__ import annotations

import json
import os

import pytest

from lit_align.cli import LitAlignCLI


class ParsingCLI(LitAlignCLI):
    """Parses many commands with the parser of one; builds and runs nothing."""

    def instantiate_classes(self):
        """Nothing."""

    def after_instantiate_classes(self):
        """Nothing."""

    def _run_subcommand(self, subcommand):
        """Nothing."""

    def parse(self, *arguments: str):
        """The configuration of a verb, after everything that happens to it before objects are built."""
        self.parse_arguments(self.parser, list(arguments))
        self._parse_ckpt_path()
        return self.config[arguments[0]]


@pytest.fixture(scope="session")
def cli() -> ParsingCLI:
    return ParsingCLI(["fit", "--model", "DPO", "--model.policy", "x", "--seed_everything", "false"])


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model_dir):
    """The working directory, with a model and data in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    os.symlink(tiny_model_dir, tmp_path / "model")
    words = ["red", "green", "blue", "gold", "pink", "grey"]
    pairs = [{"prompt": f"say {word} ", "chosen": f"{word} it is", "rejected": "no"} for word in words]
    for name, rows in (("pairs", pairs), ("prompts", [{"prompt": pair["prompt"]} for pair in pairs])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path
