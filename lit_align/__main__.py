"""The `lit-align` command: finds out which verb is asked for and imports only what that verb needs."""

from __future__ import annotations

import difflib
import importlib
import os
import select
import signal
import sys
from argparse import ArgumentError

from lit_align import __version__
from lit_align.core.errors import AlignError, ConfigError

TRAINER_VERBS = {
    "fit": "train a policy (or a reward model) on preference data",
    "validate": "loss and metrics on held-out data",
    "test": "loss and metrics on test data",
    "generate": "complete prompts, to a file of JSON lines",
    "score": "log-probabilities or rewards of given responses, to a file of JSON lines",
}
"""Verbs that need a Trainer, a model and data."""

TOOLS = {
    "quickstart": "the whole story on a small machine: make data, train, align, report",
    "compare": "several methods on the same data, at equal budget: one table, one HTML page",
    "preview": "show the first rows as the model will see them",
    "rounds": "what a loop has made, round by round: look, accept an edit, have it made again",
    "export": "write a trained model in Hugging Face format",
    "merge": "add up what models trained from one base have learnt",
    "evaluate": "reward models on pairs, models before judges, rankings: tables and figures",
    "judge": "what a reward model, a language model or a check says of responses",
    "report": "one HTML page about runs and evaluations",
    "configs": "list, show or copy the configurations that come with the package",
    "methods": "table of the methods",
}
"""Verbs without a Trainer: modules of `lit_align.tools`, each with a function `main(argv)`."""

OTHER_NAMES = {"predict": ("score", "generate")}
"""Verbs of Lightning that we have under other names."""

DEBUG = "LIT_ALIGN_DEBUG"


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments without the program's name; None: `sys.argv`, which stays as it is, because Lightning
            starts the other processes of a job with it.

    Returns:
        Exit status: 0 for success, 2 for a mistake that the user can mend, 141 where nobody reads on.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            status = _run(arguments)
        except SystemExit:
            # So ends argparse, after its help.
            sys.stdout.flush()
            raise
        # The interpreter flushes too late for an error to be caught.
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # One of another pipe, to a worker or another rank, is no business of the reader's.
        if not _hang_up():
            raise
        return 128 + signal.SIGPIPE


def _hang_up() -> bool:
    """Whether a reader of our output has gone, as in `| head -1`; what is still to be written then goes nowhere."""
    outputs = select.poll()
    for descriptor in (1, 2):
        outputs.register(descriptor, 0)
    gone = [descriptor for descriptor, events in outputs.poll(0) if events & (select.POLLERR | select.POLLHUP)]
    for descriptor in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return bool(gone)


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except (AlignError, ArgumentError) as error:
        if os.environ.get(DEBUG):
            raise
        print(f"lit-align: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Without a file it is no business of the user's disk.
        if error.filename is None or os.environ.get(DEBUG):
            raise
        fix = "check that the path is right, may be written to, and has room"
        print(f"lit-align: {error.strerror}\n  got: {error.filename}\n  fix: {fix}", file=sys.stderr)
        return 2


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"lit-align {__version__}")
        return 0
    verb = arguments[0]
    if verb in TRAINER_VERBS:
        importlib.import_module("lit_align.cli").main(arguments)
    elif verb in TOOLS:
        importlib.import_module(f"lit_align.tools.{verb}").main(arguments[1:])
    else:
        raise _unknown(verb)
    return 0


def usage() -> str:
    """The text of `lit-align --help`."""
    lines = ["usage: lit-align VERB [options]", ""]
    for title, verbs in (("With a model and data:", TRAINER_VERBS), ("Tools:", TOOLS)):
        lines += [title, *(f"  {verb:<12}{what}" for verb, what in verbs.items()), ""]
    lines += [
        "`lit-align VERB --help` lists the options of a verb, `lit-align fit --model.help DPO` those of a method.",
        f"Start with `lit-align quickstart`. {DEBUG}=1 shows tracebacks.",
    ]
    return "\n".join(lines)


def _unknown(verb: str) -> ConfigError:
    if verb.startswith("-"):
        return ConfigError(
            "the verb comes first",
            got=verb,
            fix=f"for example: lit-align fit {verb} ...; `lit-align --help` lists verbs",
        )
    close = OTHER_NAMES.get(verb) or difflib.get_close_matches(verb, [*TRAINER_VERBS, *TOOLS], n=1)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return ConfigError("there is no such verb", got=verb, fix=f"{hint}`lit-align --help` lists the verbs")


if __name__ == "__main__":
    sys.exit(main())
