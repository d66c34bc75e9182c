"""`lit-align methods` and `lit-align configs`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import lit_align.methods
from lit_align.__main__ import main
from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.methods.dpo import DPO
from lit_align.tools.configs import available
from lit_align.tools.methods import all_methods, as_markdown, describe

ROOT = Path(__file__).resolve().parents[2]


def test_the_readmes_table_is_what_the_command_prints(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    between = readme.split("<!-- methods:start -->\n")[1].split("<!-- methods:end -->")[0]
    assert main(["methods", "--markdown"]) == 0
    assert capsys.readouterr().out == between, "run: lit-align methods --write README.md"


def test_the_table_is_written_between_its_marks(tmp_path, capsys):
    file = tmp_path / "README.md"
    file.write_text("# Mine\n\n<!-- methods:start -->\nold\n<!-- methods:end -->\n\nThe end.\n")
    for _ in range(2):
        assert main(["methods", "--write", str(file)]) == 0
        assert capsys.readouterr().out == f"{file}: {len(all_methods())} methods\n"
        table = as_markdown(all_methods())
        expected = f"# Mine\n\n<!-- methods:start -->\n{table}\n<!-- methods:end -->\n\nThe end.\n"
        assert file.read_text() == expected


@pytest.mark.parametrize(
    "text",
    ["# Mine\n", "<!-- methods:end --> <!-- methods:start -->", "<!-- methods:start --><!-- methods:end -->" * 2],
    ids=["none", "reversed", "twice"],
)
def test_a_file_without_one_place_for_the_table_stays_as_it_is(tmp_path, text, capsys):
    file = tmp_path / "README.md"
    file.write_text(text)
    assert main(["methods", "--write", str(file)]) == 2
    assert "<!-- methods:start -->" in capsys.readouterr().err
    assert file.read_text() == text


def test_a_file_for_the_table_that_is_not_there(tmp_path, capsys):
    assert main(["methods", "--write", str(tmp_path / "none.md")]) == 2
    assert "none.md: No such file" in capsys.readouterr().err
    assert main(["methods", "--write"]) == 2
    assert "--write" in capsys.readouterr().err


def test_the_readme_says_what_the_command_prints(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in set(re.findall(r"`lit-align (methods[^`]*)`", readme)) - {"methods --write README.md"}:
        assert main(command.split()) == 0
        is_markdown = capsys.readouterr().out.startswith("### Policies")
        assert is_markdown == ("--markdown" in command)


def test_the_table_has_a_row_for_every_method_file():
    files = sorted(path.stem for path in (ROOT / "lit_align" / "methods").glob("[!_]*.py"))
    assert [method.slug for method in all_methods()] == files
    assert all((ROOT / method.config).is_file() for method in all_methods())


def test_a_row_comes_from_the_code():
    row = describe("dpo", DPO, 'DPO: A. Author and B. Other 2023, "A Title".\n\nhttps://example.org/1, Eq. 2. More.')
    assert (row.class_name, row.data, row.models) == ("DPO", "pairs", "policy, reference")
    assert (row.paper, row.link) == ("A. Author and B. Other 2023", "https://example.org/1")
    assert f"| `DPO` | pairs | policy, reference | {row.when} | [A. Author" in as_markdown([row])


def test_a_row_says_what_a_method_needs():
    class Dated(DPO):
        """Dated DPO.

        When: opinions of last year count less. Not for others.
        """

        needs_fields = frozenset({"timestamp", "margin"})
        requires = frozenset({Capability.REFERENCE_REFRESH})

    row = describe("dated", Dated, 'Dated: A. Author 2023, "A Title". https://example.org/1')
    assert (row.data, row.models) == ("pairs, each with margin and timestamp", "policy, refreshed reference")
    assert row.when == "opinions of last year count less"
    Dated.__doc__ = "Dated DPO."
    with pytest.raises(ConfigError, match="does not say when to use it"):
        describe("dated", Dated, 'Dated: A. Author 2023, "A Title". https://example.org/1')


def test_a_docstring_without_a_paper_is_refused():
    with pytest.raises(ConfigError, match="does not name its paper"):
        describe("dpo", DPO, "A method.")


def test_the_text_table_has_columns(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index("DATA")
    assert {line[column:].split()[0].rstrip(",") for line in lines[1:]} == {
        getattr(lit_align, name).data_kind.value for name in lit_align.methods.MODULES
    }


def test_configs_are_listed_with_a_description(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(available())
    assert all(len(line.split()) > 3 for line in lines)


def test_show_prints_a_configuration(capsys):
    assert main(["configs", "show", "trainer/cpu"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "trainer" / "cpu.yaml").read_text()


def test_an_unknown_configuration_suggests_a_close_one(capsys):
    assert main(["configs", "show", "simop"]) == 2
    assert "did you mean 'simpo'?" in capsys.readouterr().err


def test_copy_to_a_file_and_a_folder(tmp_path, capsys):
    assert main(["configs", "copy", "dpo", str(tmp_path / "new" / "mine.yaml")]) == 0
    assert main(["configs", "copy", "dpo", str(tmp_path)]) == 0
    source = (ROOT / "configs" / "dpo.yaml").read_bytes()
    assert (tmp_path / "new" / "mine.yaml").read_bytes() == (tmp_path / "dpo.yaml").read_bytes() == source


def test_copy_takes_the_first_run_along(tmp_path):
    assert main(["configs", "copy", "quickstart/dice", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dice.yaml", "dice_dpo.yaml"]
    (tmp_path / "dice.yaml").unlink()
    (tmp_path / "dice_dpo.yaml").write_text("mine")
    assert main(["configs", "copy", "quickstart/dice", str(tmp_path)]) == 0
    assert (tmp_path / "dice_dpo.yaml").read_text() == "mine"


def test_copy_writes_over_nothing(tmp_path, capsys):
    (tmp_path / "dpo.yaml").write_text("mine")
    assert main(["configs", "copy", "dpo", str(tmp_path)]) == 2
    assert (tmp_path / "dpo.yaml").read_text() == "mine"


def test_preview_knows_the_short_name_of_a_split_and_refuses_others(folder, capsys):
    data = ("--model", "DPO", "--model.policy", "model", "--data.validation", "pairs.jsonl", "--rows", "1")
    assert main(["preview", *data, "--split", "val"]) == 0
    assert "row 1" in capsys.readouterr().out
    assert main(["preview", *data, "--split", "dev"]) == 2
    assert "split must be 'train' or 'validation'" in capsys.readouterr().err


def test_preview_spells_out_control_characters(folder, capsys):
    (folder / "odd.jsonl").write_text(json.dumps({"prompt": "a \x1b[2J", "chosen": "b\x07", "rejected": "c"}) + "\n")
    assert main(["preview", "--model", "DPO", "--model.policy", "model", "--data.train", "odd.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert r"a \x1b[2J" in shown
    assert r"b\x07" in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
