"""`lit-align evaluate ranking`: many models, best first, and who is told apart."""

from __future__ import annotations

import sys
from pathlib import Path

from lit_align.core.errors import ConfigError
from lit_align.tools.evaluate import finish, named, new_parser, parse

_HELP = """Rank models by mean score, by Bradley-Terry and by Elo, with intervals. Give one file of ranked data (columns
prompt, responses, scores, models), or what `lit-align score` says of such data, or a score file for each model as
NAME=FILE."""


def main(argv: list[str]) -> None:
    """Run `lit-align evaluate ranking`.

    Raises:
        ConfigError: an argument will not do.
        DataError: a file cannot be read, or the models cannot be ranked together.
    """
    parser = new_parser("ranking", _HELP)
    parser.add_argument("data", nargs="*", metavar="FILE", help="one file of ranked data, or NAME=FILE for each model")
    parser.add_argument("--baseline", metavar="MODEL", help="also win rates against this model, and length-controlled")
    arguments = parse(parser, argv, ["data"])
    if len(arguments.data) > 1:
        files = named(arguments.data, "score files")
    elif "=" in arguments.data[0] and not Path(arguments.data[0]).is_file():
        fix = "give one for each model, or a file of ranked data without a name"
        raise ConfigError("one score file makes no ranking", got=arguments.data[0], fix=fix)
    else:
        files = {}

    from lit_align.evaluation.generator_scores import by_generator
    from lit_align.evaluation.one_judge import check_one_judge
    from lit_align.evaluation.ranking_evaluation import evaluate_ranking, is_ranked, read_ranked, table_of
    from lit_align.evaluation.score_files import read_scores, with_columns

    left_out, doubt = 0, ""
    if files:
        scores = {name: read_scores(path, "") for name, path in files.items()}
        doubt = check_one_judge(scores, files)
        table = table_of(scores)
    elif is_ranked(Path(arguments.data[0])):
        table = read_ranked(Path(arguments.data[0]))
    else:
        records = with_columns(read_scores(arguments.data[0], ""), [])
        # One file has one judge, unless it says otherwise.
        check_one_judge({arguments.data[0]: records}, {arguments.data[0]: arguments.data[0]})
        models = by_generator(records)
        if len(models) < 2:
            fix = "give a score file for each model, NAME=FILE, or scores of ranked data whose rows name the models"
            raise ConfigError("the score file does not say who wrote the responses", got=arguments.data[0], fix=fix)
        table = table_of(models)
        left_out = len(records) - sum(map(len, models.values()))
    document = evaluate_ranking(table, arguments.baseline, arguments.seed)
    if left_out:
        document.about += (
            f" {left_out} responses of the score file are left out: they have no score, or the data do not say who "
            "wrote them, as where a row holds an empty response."
        )
    if doubt:
        document.about += f" {doubt}"
    finish(document, arguments.out, arguments.title)
    if doubt:
        # Last, where it is seen.
        print(f"\nwarning: {doubt}", file=sys.stderr)
