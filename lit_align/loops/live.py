"""The verbs of a loop: what the policy, the judges and the seed data do in a round, each step made once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import combinations
from typing import Any, NamedTuple

from lit_align.core.errors import DataError
from lit_align.core.gathering import gathered
from lit_align.core.seeds import seed_of
from lit_align.judges.base import Judge, PointwiseJudge
from lit_align.loops.pairs import Answer, Chosen, Pairing
from lit_align.loops.ranks import Ranks
from lit_align.loops.round import Round, Work
from lit_align.loops.seeds import shuffled
from lit_align.loops.source import as_response
from lit_align.loops.store import RoundFolder, Row, run_of
from lit_align.loops.writer import Sampling, Writer, part_of
from lit_align.rollouts.engine import Engine
from lit_align.rollouts.progress import generation_bar

LONG_PROMPT = "prompt that is too long to be answered"


class Means(NamedTuple):
    """What a round works with."""

    seed_rows: Callable[[], list[Row]]
    """Reads the rows that the loop begins with."""
    writer: Writer
    sampling: Sampling
    run_seed: int
    prompts_per_round: int | None = None
    most: int | None = None
    """Rows that a trial takes of any set beside the prompts; None: it is no trial."""

    def capped(self, number: int) -> int:
        """So many, or as many as a trial takes."""
        return number if self.most is None else min(number, self.most)


class LiveRound(Round):
    """A round with the means to make its rows.

    Args:
        folder: where the files are.
        inputs: digest of what the round is begun with.
        means: what it works with.
        ranks: the processes that make it.
        part_size: see `Round`.
    """

    def __init__(
        self, folder: RoundFolder, inputs: str, means: Means, ranks: Ranks | None = None, part_size: int = 64
    ) -> None:
        super().__init__(folder, inputs, ranks, part_size)
        self.means = means
        self.figures: dict[str, float] = {}
        """What the loop has measured, for the metrics file."""

    # ---------------------------------------------------------------- prompts and answers

    def prompts(self) -> list[Row]:
        """Rows of the seed for this round: all, or the next `prompts_per_round` of them in a random order.

        When the seed is used up, it begins again in another order. How far earlier rounds came, their manifests say:
        they may have been asked for other numbers of prompts.
        """
        found = self.step("prompts", lambda: self.askable(self._share(self.means.seed_rows())))
        self.require(found, "no prompt is short enough to be asked", "raise data.max_length")
        return found

    def askable(self, prompts: list[Row]) -> list[Row]:
        """The prompts that can be completed; with `data.on_overlong: drop` those that are too long are counted."""
        kept = self.means.writer.can_ask(prompts, self.means.sampling.max_new_tokens)
        if len(kept) < len(prompts):
            self.counts[LONG_PROMPT] += len(prompts) - len(kept)
        return kept

    def _share(self, rows: list[Row]) -> list[Row]:
        wanted, first = self.means.prompts_per_round, self._place()
        if wanted is not None or "places" in self.folder.manifest:
            self.folder.note(places=[first, first + (wanted or 0)])
        if wanted is None:
            return rows
        found: list[Row] = []
        for place in range(first, first + wanted):
            turn, index = divmod(place, len(rows))
            if not found or index == 0:
                order = shuffled(rows, self.means.run_seed, "prompts", turn)
            found.append(order[index] if turn == 0 else {**order[index], "id": f"{order[index]['id']}'{turn}"})
        return found

    def _place(self) -> int:
        """Where this round goes on in the seed's order: where it once began, or where the rounds before came to."""
        if "places" in self.folder.manifest:
            # Made again, it may be that those before are there no more.
            return int(self.folder.manifest["places"][0])
        for number in range(self.number - 1, 0, -1):
            manifest = RoundFolder.of(run_of(self.folder), number).manifest
            if "places" in manifest:
                return int(manifest["places"][1])
        return 0

    def candidates(
        self,
        prompts: Sequence[Row],
        samples: int,
        *,
        name: str = "candidates",
        sampling: Sampling | None = None,
        **more: Any,
    ) -> list[Row]:
        """What the policy writes: `samples` completions of each prompt.

        Args:
            prompts: rows with `id` and `prompt`.
            samples: completions of each.
            name: of the step; what is drawn depends on it.
            sampling: how they are drawn; None: as the loop says.
            **more: further arguments of `Engine.generate`.
        """
        how = sampling or self.means.sampling

        def write(part: Sequence[Row]) -> list[Row]:
            purpose = "" if name == "candidates" else name
            return self.means.writer.write(
                part, samples=samples, number=self.number, sampling=how, purpose=purpose, **more
            )

        settings = {"samples": samples, "sampling": how._asdict()}
        mix = more.get("mix")
        # Weights that are sharded are gathered by all processes together, and their parts are not equally many.
        with nullcontext() if mix is None else gathered(mix.model):
            return self.written(name, prompts, write, self.means.writer.engine, each=samples, **settings)

    def written(
        self, name: str, prompts: Sequence[Row], write: Work, engine: Engine, *, each: int = 1, **settings: Any
    ) -> list[Row]:
        """A step of what an engine writes, in parts of its batches; the rows stand in the order of the prompts.

        Args:
            name: of the step.
            prompts: rows with `id` and `prompt`.
            write: makes the rows of some prompts, with their ids.
            engine: what writes.
            each: completions of each prompt.
            **settings: what the rows depend on besides.

        Raises:
            DataError: two prompts have one id.
        """
        twice = [known for known, number in Counter(row["id"] for row in prompts).items() if number > 1]
        if twice:
            raise DataError(
                "two prompts of a round have one id", field="id", value=twice[0], fix="give each an id of its own"
            )

        def in_order(rows: Sequence[Row]) -> list[Row]:
            of = by_prompt(rows)
            found = [row for prompt in prompts for row in of[prompt["id"]]]
            assert len(found) == len(rows), f"{name}: rows of prompts that are none of the step's"
            return found

        # Like with like, for less padding; and the longest first: nobody waits for them at the end.
        by_length = sorted(prompts, key=self.means.writer.length, reverse=True)
        part_size = part_of(engine, len(prompts), each, self.part_size)
        with generation_bar(f"round {self.number}: {name}", each * len(prompts) // self.ranks.size, engine):
            return self.spread(name, by_length, write, part_size=part_size, arrange=in_order, **settings)

    # ---------------------------------------------------------------- judgements

    def scores(
        self,
        prompts: Sequence[Row],
        candidates: Sequence[Row],
        judge: PointwiseJudge,
        *,
        name: str = "scores",
        **settings: Any,
    ) -> list[Row]:
        """What a judge gives each candidate: rows with `id`, `sample`, `score` (null: it cannot tell) and `reason`.

        Args:
            prompts: rows with `id` and `prompt`.
            candidates: answers to them.
            judge: what scores them.
            name: of the step.
            **settings: what the scores depend on besides, such as the judge's; see `Round.step`.
        """
        of = by_prompt(candidates)

        def judged(part: Sequence[Row]) -> list[Row]:
            asked = [(prompt, answer) for prompt in part for answer in of[prompt["id"]]]
            results = judge.score(
                [prompt["prompt"] for prompt, _ in asked],
                [answer["completion"] for _, answer in asked],
                **further_columns([prompt for prompt, _ in asked]),
            )
            return [
                {"id": prompt["id"], "sample": answer["sample"], "score": result.score, "reason": result.reason}
                for (prompt, answer), result in zip(asked, results, strict=True)
            ]

        return self.spread(name, prompts, judged, **settings)

    def verdicts(
        self, prompts: Sequence[Row], candidates: Sequence[Row], judge: Judge, *, name: str = "verdicts"
    ) -> list[Row]:
        """What a judge says of every two candidates: rows with `id`, `first`, `second`, `probability`, `reason`."""
        of = by_prompt(candidates)

        def judged(part: Sequence[Row]) -> list[Row]:
            asked = [(prompt, *two) for prompt in part for two in combinations(of[prompt["id"]], 2)]
            results = judge.compare(
                [prompt["prompt"] for prompt, _, _ in asked],
                [first["completion"] for _, first, _ in asked],
                [second["completion"] for _, _, second in asked],
                **further_columns([prompt for prompt, _, _ in asked]),
            )
            return [
                {"id": prompt["id"], "first": first["sample"], "second": second["sample"], **result._asdict()}
                for (prompt, first, second), result in zip(asked, results, strict=True)
            ]

        return self.spread(name, prompts, judged)

    # ---------------------------------------------------------------- what is learnt from

    def pairs(
        self,
        prompts: Sequence[Row],
        candidates: Sequence[Row],
        scores: Sequence[Row],
        rule: Pairing,
        *,
        name: str = "pairs",
    ) -> list[Row]:
        """Pairs of candidates by their scores; what is left out is counted in the manifest."""

        def build() -> list[Row]:
            of = by_prompt(answers(candidates, scores))
            rule.counts.clear()
            rows = [
                # A pair is what was compared: by its bare scores the longer answer may be the better one.
                self.pair(prompt, Chosen(*(answer._replace(score=rule.worth(answer)) for answer in pair)))
                for prompt in prompts
                for pair in rule.pairs(prompt["id"], [answer["answer"] for answer in of[prompt["id"]]])
            ]
            self.counts.update(rule.counts)
            return rows

        return self.step(name, build)

    def pair(self, prompt: Row, pair: Chosen, **more: Any) -> Row:
        """A row to learn from."""
        chosen, rejected = pair
        row = self.learnt(prompt, f"{chosen.sample}-{rejected.sample}") | {
            "chosen": as_response(prompt["prompt"], chosen.text),
            "rejected": as_response(prompt["prompt"], rejected.text),
        }
        row |= {f"{side}_ids": answer.ids for side, answer in pair._asdict().items() if answer.ids is not None}
        if chosen.score is not None and rejected.score is not None:
            row |= {"score_chosen": chosen.score, "score_rejected": rejected.score}
        return row | more

    def offline_pairs(self) -> list[Row]:
        """The pairs of the seed, as rows to learn from."""
        return [
            self.learnt(row, "offline")
            | {side: as_response(row["prompt"], row[side]) for side in ("chosen", "rejected")}
            for row in self.means.seed_rows()
        ]

    def demonstration(self, prompt: Row, answer: Answer, **more: Any) -> Row:
        """A row to imitate."""
        completion = as_response(prompt["prompt"], answer.text)
        drawn = {} if answer.ids is None else {"completion_ids": answer.ids}
        return self.learnt(prompt, str(answer.sample)) | {"completion": completion} | drawn | more

    def learnt(self, prompt: Row, which: str) -> Row:
        """What every row to learn from has."""
        row: Row = {"id": f"{self.number}/{prompt['id']}/{which}", "round": self.number, "prompt": prompt["prompt"]}
        return row | ({"tools": prompt["tools"]} if "tools" in prompt else {})

    def require(self, rows: Sequence[Row], what: str, fix: str) -> None:
        """Refuse a round of nothing.

        Raises:
            DataError: there are no rows.
        """
        if not rows:
            counts = "; ".join(f"{count} {reason}" for reason, count in self.folder.left_out().items())
            raise DataError(what, file=str(self.folder.path), value=counts or "no rows", fix=fix)

    def seed_for(self, *parts: object) -> int:
        """A seed that depends on the run, the round and what it is for."""
        return seed_of(self.means.run_seed, self.number, *parts)


def by_prompt(rows: Sequence[Row]) -> defaultdict[str, list[Row]]:
    """Rows by the id of their prompt, in their order."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["id"]].append(row)
    return found


def answers(candidates: Sequence[Row], scores: Sequence[Row] = ()) -> list[Row]:
    """Candidates as `Answer`s with their scores: rows with `id` and `answer`.

    Raises:
        DataError: a candidate has no score.
    """
    scored = {(row["id"], row["sample"]): row["score"] for row in scores}
    found = []
    for row in candidates:
        key = (row["id"], row["sample"])
        if scores and key not in scored:
            raise DataError(
                "a candidate has no score", value=f"prompt {key[0]}, sample {key[1]}", fix="redo the scores"
            )
        drawn = (row["tokens"], row["finished"], row["sample"], row.get("ids"))
        answer = Answer(row["completion"], scored.get(key), *drawn)
        found.append({"id": row["id"], "answer": answer})
    return found


def further_columns(prompts: Sequence[Row]) -> dict[str, list[Any]]:
    """What the seed says of prompts besides, for judges: by column, null where a row has nothing."""
    known = {"id", "row", "prompt", "tools", "reason"}
    names = dict.fromkeys(name for prompt in prompts for name in prompt if name not in known)
    return {name: [prompt.get(name) for prompt in prompts] for name in names}
