"""`lit-align evaluate policies`: models answer the same prompts, and judges say who does better."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_align.core.errors import ConfigError
from lit_align.tools.evaluate import add_embedding, finish, named, new_parser, parse

if TYPE_CHECKING:
    from lit_align.evaluation.policy_evaluation import Evaluated

_HELP = """Let two or more models answer the same prompts and judges score the answers: win rates (length-controlled as
well), scores by every judge, lengths, telling words, samples side by side. Killed at any time, the same command goes on
where it was."""


def main(argv: list[str]) -> None:
    """Run `lit-align evaluate policies`.

    Raises:
        ConfigError: an argument will not do, or the folder holds results of something else.
        DataError: there are no prompts that all models have room for.
    """
    arguments = _parse(argv)
    models = {name: model_folder(path) for name, path in named(arguments.models, "models").items()}
    if len(models) < 2:
        fix = "--models before=FOLDER after=FOLDER"
        raise ConfigError("there is nothing to compare one model with", got=", ".join(models), fix=fix)
    baseline = arguments.baseline or next(iter(models))
    if baseline not in models:
        raise ConfigError("there is no such baseline", got=baseline, fix=f"one of {', '.join(models)}")
    judges = read_judges(arguments.judges)

    from transformers.utils.logging import disable_progress_bar

    from lit_align.cli import silence_noise
    from lit_align.tools.one_at_a_time import alone

    silence_noise()
    disable_progress_bar()
    if arguments.tsne:
        from lit_align.evaluation.embeddings import require_tsne

        require_tsne()
    with alone(arguments.out):
        found = _make(arguments, models, judges, baseline)
        _report(arguments, found)


def _make(
    arguments: argparse.Namespace, models: Mapping[str, str], judges: Mapping[str, Any], baseline: str
) -> Evaluated:
    """Generate and judge what is not there yet."""
    from lit_align.evaluation.policy_evaluation import Evaluated
    from lit_align.evaluation.policy_files import Sampling, complete, judge_all, read_prompts, with_room
    from lit_align.judges.loading import judge_from_config
    from lit_align.rollouts.hf_engine import HFEngine

    sampling = Sampling(
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.top_p,
        arguments.seed,
        tuple(arguments.stop),
        arguments.batch_size,
    )
    # Before anything is generated: a judge that cannot be made would be found out last.
    loaders = {name: partial(judge_from_config, config) for name, config in judges.items()}
    for load in loaders.values():
        load()
    engines = {
        name: HFEngine(
            path,
            chat_template=arguments.chat_template,
            separator=arguments.separator,
            as_chat=arguments.as_chat,
            system_prompt=arguments.system_prompt,
            batch_size=arguments.batch_size,
            dtype=arguments.dtype,
        )
        for name, path in models.items()
    }
    prompts = read_prompts(
        arguments.prompts,
        limit=arguments.limit,
        as_chat=bool(arguments.as_chat),
        system_prompt=arguments.system_prompt or None,
    )
    prompts = with_room(prompts, engines, sampling.max_new_tokens)
    generations = {}
    for name, engine in engines.items():
        generations[name] = complete(name, engine, prompts.asked, sampling, arguments.out, arguments.overwrite)
        engine.release()
    verdicts = {
        name: judge_all(name, judges[name], load, prompts.asked, generations, arguments.out, arguments.overwrite)
        for name, load in loaders.items()
    }
    return Evaluated(prompts, generations, verdicts, baseline)


def _report(arguments: argparse.Namespace, found: Evaluated) -> None:
    from lit_align.evaluation.policy_evaluation import evaluate_policies
    from lit_align.evaluation.score_files import write_align_anything

    document = evaluate_policies(found, arguments.seed)
    if arguments.embed:
        from lit_align.evaluation.embeddings import add_embeddings

        step = -(-len(found.prompts.asked) // arguments.embed_most)
        asked = [one.prompt for one in found.prompts.asked[::step]]
        groups = {
            name: (asked, [record["response"] for record in records[::step]])
            for name, records in found.generations.items()
        }
        add_embeddings(document, arguments.embed, groups, with_tsne=arguments.tsne, seed=arguments.seed)
    if arguments.align_anything:
        for judge, verdicts in found.verdicts.items():
            for name, records in verdicts.scores.items():
                write_align_anything(arguments.out / "align_anything" / judge / f"{name}.json", records)
    finish(document, arguments.out, arguments.title)


def model_folder(path: str) -> str:
    """The model that a path means: a folder or hub name itself, or the export in the folder of a run.

    Raises:
        ConfigError: it is a run that has not been exported.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return path
    export = folder / "export"
    if (export / "config.json").is_file() or (export / "adapter_config.json").is_file():
        return str(export)
    if (folder / "checkpoints").is_dir():
        fix = f"lit-align export {path}"
        raise ConfigError("the run has not been exported", got=path, fix=fix)
    raise ConfigError("the folder holds no model", got=path, fix="name a model's folder, a run's, or a hub name")


def read_judges(texts: Sequence[str]) -> dict[str, Any]:
    """Configurations of judges by name.

    Args:
        texts: YAML files that map names to judges, or NAME=VALUE, where the value is a judge's YAML file or the folder
            of a reward model.

    Raises:
        ConfigError: there is no such file, or it does not describe judges.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and not value.endswith((".yaml", ".yml")):
            several = {name: {"class_path": "RewardModelJudge", "init_args": {"model": model_folder(value)}}}
        else:
            content = _mapping(value if equals else text)
            content = content.get("judge", content)
            alone = "class_path" in content
            if equals and not alone:
                fix = f"give it without a name: --judges {value}"
                raise ConfigError("this file names its judges itself", got=text, fix=fix)
            several = {(name if equals else Path(text).stem): content} if alone else content
        for title, config in several.items():
            if not re.fullmatch(r"[\w.+-]+", str(title)) or not isinstance(config, dict) or "class_path" not in config:
                fix = "write NAME: {class_path: RewardModelJudge, init_args: {model: FOLDER}}"
                raise ConfigError("this describes no judge", got=f"{text}: {title}: {config!r:.80}", fix=fix)
            if title in found:
                raise ConfigError("two judges have one name", got=str(title), fix="give each a name of its own")
            found[str(title)] = config
    return found


def _mapping(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        fix = "give a YAML file that maps names to judges, or NAME=FOLDER_OF_A_REWARD_MODEL"
        raise ConfigError("there is no such file of judges", got=path, fix=fix)
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError("the file of judges is no YAML", got=f"{path}: {error}", fix="mend it") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError("the file of judges holds no mapping", got=path, fix="write NAME: {class_path: ...}")
    return content


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = new_parser("policies", _HELP)
    add = parser.add_argument
    add("--prompts", metavar="DATA", help="a file, folder or hub name with prompts")
    add("--models", nargs="+", metavar="NAME=MODEL", help="folders or hub names of models, or folders "
        "of runs that were exported; the first is the baseline")  # fmt: skip
    add("--judges", nargs="+", metavar="FILE", help="a YAML file that maps names to judges, or "
        "NAME=FILE for one judge, or NAME=FOLDER of a reward model")  # fmt: skip
    add("--baseline", metavar="NAME", help="model that the others are compared with (default: the first)")
    add("--limit", type=int, metavar="N", help="the first N prompts (default: all)")
    add("--max_new_tokens", type=int, default=256, help="longest completion (default: 256)")
    add("--temperature", type=float, default=0.0, help="0 (default): the likeliest token each time")
    add("--top_p", type=float, default=1.0, help="sample from the likeliest tokens of this probability together")
    add("--stop", nargs="+", default=[], metavar="TEXT", help="strings that end a completion")
    add("--batch_size", type=int, default=8, help="prompts at a time (default: 8)")
    add("--as_chat", action=argparse.BooleanOptionalAction, help="make a user's turn of plain prompts (default: as the "
        "run had it that a model was exported from)")  # fmt: skip
    add("--separator", metavar="TEXT", help="put behind plain prompts (default: likewise)")
    add("--system_prompt", metavar="TEXT", help="put before conversations that have none (default: likewise)")
    add("--chat_template", metavar="TEMPLATE", help="chatml, transcript, or a Jinja file (default: each model's own)")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "float64", "auto"],
        help="of the weights (default: float32)")  # fmt: skip
    add("--overwrite", action="store_true", help="make anew what was made from other models, prompts or settings")
    add("--align_anything", action="store_true", help="also write align-anything's lists of scores")
    add_embedding(parser)
    arguments = parse(parser, argv, ["prompts", "models", "judges"])
    for name, least in (("limit", 1), ("max_new_tokens", 1), ("temperature", 0), ("batch_size", 1), ("embed_most", 5)):
        value = getattr(arguments, name)
        if value is not None and not value >= least:
            raise ConfigError(f"--{name} is out of range", got=str(value), fix=f"give {least} or more")
    return arguments
