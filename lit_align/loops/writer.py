"""The policy as a writer: it completes prompts in the very tokens that it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import DataKind
from lit_align.core.errors import DataError
from lit_align.data.rounds import round_ids, round_sets
from lit_align.data.sets import DataSets
from lit_align.loops.seeds import sample_seed
from lit_align.loops.source import as_response
from lit_align.loops.store import Row
from lit_align.rollouts.engine import Completion, Engine

_PARTS = 192
"""How many parts a round has at least, before parts are of more than one batch: so many that one more or less is not
felt, and that any usual number of processes divides them."""


class Sampling(NamedTuple):
    """How completions are drawn."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    stop: tuple[str, ...] = ()


class Writer:
    """Completes prompts.

    Args:
        engine: writes.
        tokenizer: of the policy.
        sets: settings of the data, which say how prompts become tokens.
        seed: of the run.
        precision: in what the policy runs.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        sets: DataSets,
        seed: int,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.engine, self.tokenizer, self.sets, self.seed = engine, tokenizer, sets, seed
        self.precision = precision

    def write(
        self, prompts: Sequence[Row], *, samples: int, number: int, sampling: Sampling, purpose: str = "", **more: Any
    ) -> list[Row]:
        """Complete prompts; what is drawn for one depends on nothing but its id, the round and the seed.

        Args:
            prompts: rows with `id` and `prompt`.
            samples: completions of each.
            number: of the round.
            sampling: how they are drawn.
            purpose: tells apart what is drawn for one prompt in one round.
            **more: further arguments of `Engine.generate`.

        Returns:
            Rows with `id`, `sample` (from 0), `completion`, `tokens`, `finished`, prompt by prompt; `logps`, if they
            are asked for; and `ids`, the tokens that were drawn, of those whose text, read again, is other ones: it
            can be spelt otherwise, and text that was cut at the limit looks as if it had ended there.

        Raises:
            DataError: a prompt cannot be written to.
        """
        asked = self.encode(prompts, sampling.max_new_tokens)
        seeds = [sample_seed(self.seed, number, row["id"], k, purpose) for row in prompts for k in range(samples)]
        with self.precision():
            completions = self.engine.generate(asked, samples=samples, seed=seeds, **sampling._asdict(), **more)
        numbered = [(row["id"], k) for row in prompts for k in range(samples)]
        rows = [self._row(*both, completion) for both, completion in zip(numbered, completions, strict=True)]
        owners = [prompt for prompt in prompts for _ in range(samples)]
        for place in self._read_otherwise(owners, [row["completion"] for row in rows], completions, sampling):
            rows[place]["ids"] = completions[place].ids
        return rows

    def _read_otherwise(
        self, prompts: Sequence[Row], texts: Sequence[str], completions: Sequence[Completion], sampling: Sampling
    ) -> list[int]:
        """Places of the completions whose texts are other tokens than were drawn."""
        places = [
            place
            for place, completion in enumerate(completions)
            if texts[place].strip() and not self._is_stopped(completion, sampling)
        ]
        if not places:
            return []
        asked = [prompts[place] for place in places]
        read = self.read(asked, [texts[place] for place in places], sampling.max_new_tokens)
        drawn = {
            number: [*completions[place].prompt, *completions[place].ids] for number, place in enumerate(places, 1)
        }
        return [place for number, place in enumerate(places, 1) if read.get(number) != drawn[number]]

    def _is_stopped(self, completion: Completion, sampling: Sampling) -> bool:
        """Whether a stop string ended it: then the text ends before it, and the tokens do not."""
        own_end = bool(completion.ids) and completion.ids[-1] in self.tokenizer.all_special_ids
        return bool(sampling.stop) and completion.finished and not own_end

    def read(self, prompts: Sequence[Row], texts: Sequence[str], max_new_tokens: int) -> dict[int, list[int]]:
        """Tokens of prompts with texts as completions, by their number from 1; without those that are too long."""
        rows = [
            {**question(prompt), "completion": as_response(prompt["prompt"], text)}
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        sets = round_sets(self.sets, rows, max_new_tokens)
        # A text may need more tokens than were drawn for it, such as an end.
        sets = replace(sets, recipe=replace(sets.recipe, on_overlong="drop"))
        with known_prompts(prompts):
            return round_ids(sets, DataKind.RESPONSES)

    def _row(self, prompt_id: str, sample: int, completion: Completion) -> Row:
        row: Row = {
            "id": prompt_id,
            "sample": sample,
            "completion": self.text(completion),
            "tokens": len(completion.ids),
            "finished": completion.finished,
        }
        return row if completion.logps is None else row | {"logps": sum(completion.logps)}

    def text(self, completion: Completion) -> str:
        """The words as they stand behind the prompt: alone, some tokenizers would drop a white space in front."""
        if completion.text == "" or not isinstance(completion.prompt, list):
            return completion.text
        prompt: list[Any] = completion.prompt
        before = str(self.tokenizer.decode(prompt, skip_special_tokens=True))
        whole = str(self.tokenizer.decode([*prompt, *completion.ids], skip_special_tokens=True))
        own = whole[len(before) :] if whole.startswith(before) else completion.text
        # What a stop string ended, ends before it.
        end = own.find(completion.text) + len(completion.text)
        return own[:end] if completion.text in own else completion.text

    def length(self, prompt: Row) -> int:
        """About how long a prompt is, characters; to put like with like."""
        return sum(len(str(part)) for part in question(prompt).values())

    def encode(self, prompts: Sequence[Row], max_new_tokens: int) -> list[list[int]]:
        """Tokens of prompts, as training sees them.

        Raises:
            DataError: a prompt is no prompt.
        """
        found = self._encoded(prompts, max_new_tokens)
        for number, row in enumerate(prompts, start=1):
            if number not in found:
                raise DataError(
                    f"prompt {row['id']} cannot be asked",
                    row=row.get("row"),
                    field="prompt",
                    value=row["prompt"],
                    fix="mend it, or remove the row; if it is too long, raise data.max_length",
                )
        return [found[number] for number in range(1, len(prompts) + 1)]

    def can_ask(self, prompts: Sequence[Row], max_new_tokens: int) -> list[Row]:
        """The prompts that can be completed: all, or with `data.on_overlong: drop` those that are not too long."""
        if self.sets.recipe.on_overlong != "drop":
            return list(prompts)
        found = self._encoded(prompts, max_new_tokens)
        return [row for number, row in enumerate(prompts, start=1) if number in found]

    def fitting(self, prompts: Sequence[Row], max_new_tokens: int) -> list[Row]:
        """The prompts that can be read whole."""
        found = self._encoded(prompts, max_new_tokens)
        limit = round_sets(self.sets, [], max_new_tokens).recipe.max_prompt_length
        assert limit is not None, "prompts of a round have a limit"
        # A longer one has been dropped, or cut to the limit.
        return [row for number, row in enumerate(prompts, start=1) if len(found.get(number, ())) in range(1, limit)]

    def _encoded(self, prompts: Sequence[Row], max_new_tokens: int) -> dict[int, list[int]]:
        """Tokens of the prompts that are not dropped, by their number from 1."""
        sets = round_sets(self.sets, [question(row) for row in prompts], max_new_tokens)
        with known_prompts(prompts):
            return round_ids(sets, DataKind.PROMPTS)


@contextmanager
def known_prompts(prompts: Sequence[Row]) -> Iterator[None]:
    """Say which prompt it was that cannot be read: its place among those that are read together tells nobody."""
    try:
        yield
    except DataError as error:
        if error.row is None or not 1 <= error.row <= len(prompts):
            raise
        prompt = prompts[error.row - 1]
        raise DataError(
            f"prompt {prompt['id']}: {error.what}",
            file=error.file,
            row=prompt.get("row"),
            field=error.field,
            value=error.value,
            fix=error.fix,
        ) from error


def part_of(engine: object, prompts: int, samples: int, most: int) -> int | None:
    """How many prompts are written to at once, so that processes share them evenly, to within what one does in a go.

    It is one batch of the engine, or some where there are very many, and does not depend on how many processes there
    are: a model rounds otherwise in other batches.

    Args:
        engine: what writes.
        prompts: how many there are.
        samples: completions of each.
        most: prompts of a part.

    Returns:
        None for engines that do not say how much they write at a time, such as vLLM, which does well with much.
    """
    batch = getattr(engine, "batch_size", None)
    if not isinstance(batch, int):
        return None
    together = max(1, batch // max(1, samples))
    batches = -(-prompts // together)
    return together * max(1, min(batches // _PARTS, most // together))


def question(prompt: Row) -> Row:
    """What the data side needs of a prompt."""
    return {name: prompt[name] for name in ("prompt", "tools") if name in prompt}
