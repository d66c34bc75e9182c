"""`lit-align evaluate rewards`: what score files of reward models say."""

from __future__ import annotations

from lit_align.core.errors import ConfigError
from lit_align.tools.evaluate import add_embedding, finish, named, new_parser, parse

_HELP = """Measure reward models on pairs of chosen and rejected responses, from the files that `lit-align score` writes
(or lines with id, source, prompt, response, score). Several files are compared on the pairs that all have scored."""
_BY = ("source", "margin")
"""Columns that are shown where there are some."""


def main(argv: list[str]) -> None:
    """Run `lit-align evaluate rewards`.

    Raises:
        ConfigError: an argument will not do.
        DataError: a score file cannot be read, or there are no pairs.
    """
    parser = new_parser("rewards", _HELP)
    parser.add_argument("scores", nargs="*", metavar="NAME=FILE", help="a score file of each reward model")
    parser.add_argument("--by", metavar="A,B", help="columns to break accuracy down by, of the scores' meta or of the "
                        f"data that they name (default: {', '.join(_BY)}, where they are); a column `subset` makes "
                        "sections")  # fmt: skip
    add_embedding(parser)
    arguments = parse(parser, argv, ["scores"])
    files = named(arguments.scores, "score files")
    wanted = [name.strip() for name in (arguments.by or "").split(",") if name.strip()]
    by = wanted or list(_BY)

    from lit_align.evaluation.reward_evaluation import SECTION_COLUMN, evaluate_rewards, read_judged
    from lit_align.evaluation.score_files import read_scores, with_columns

    if arguments.tsne:
        from lit_align.evaluation.embeddings import require_tsne

        require_tsne()
    read = {name: with_columns(read_scores(path, name), [SECTION_COLUMN, *by]) for name, path in files.items()}
    for name in wanted:
        if not any(name in record.meta for records in read.values() for record in records):
            there = sorted({column for records in read.values() for record in records for column in record.meta})
            got = f"{name}; meta has {', '.join(there) or 'nothing'}"
            raise ConfigError("nothing is known of this column", got=got, fix="name a column of the data or of meta")
    document = evaluate_rewards(read, by, arguments.seed)
    if arguments.embed:
        from transformers.utils.logging import disable_progress_bar

        from lit_align.cli import silence_noise
        from lit_align.evaluation.embeddings import add_embeddings

        silence_noise()
        disable_progress_bar()
        pairs = read_judged(read)[0][0].pairs
        step = -(-len(pairs) // arguments.embed_most)
        groups = {}
        for side, name in enumerate(("chosen", "rejected")):
            records = [pair[side] for pair in pairs[::step]]
            groups[name] = ([record.prompt for record in records], [record.response for record in records])
        add_embeddings(document, arguments.embed, groups, with_tsne=arguments.tsne, seed=arguments.seed)
    finish(document, arguments.out, arguments.title)
