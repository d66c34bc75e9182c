"""What a batch is: one flat row of tokens plus integer index arrays, never a [2B, T] rectangle.

Legend of shapes: `R` rows, `T` tokens in a row, `N` scored tokens, `M` responses, `B` pairs or examples,
`S` attention segments. All batches are NamedTuples: Lightning's device transfer and torch's `pin_memory`
handle them, and refuse frozen dataclasses.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from torch import Tensor


class DataKind(str, Enum):
    """The kinds of data that a method can learn from."""

    PAIRS = "pairs"
    """prompt, chosen, rejected (one prompt may hold several pairs of its responses)."""
    UNPAIRED = "unpaired"
    """prompt, completion, and a label that says whether the completion is desirable."""
    RANKED = "ranked"
    """prompt, K responses and their scores or ranks."""
    SCORED = "scored"
    """prompt, completion, and a number that says how good the completion is."""
    JUDGED = "judged"
    """prompt, completion, a label, and a judgment in words of what is good or bad about the completion."""
    PARAPHRASED = "paraphrased"
    """prompt, the same in other words, and a completion that answers both."""
    CONTEXTUAL = "contextual"
    """prompt, a context that stands before it for the teacher only, and a completion."""
    STEPS = "steps"
    """prompt, the steps of a solution, and for each step whether it is right."""
    RATED = "rated"
    """prompt, completion, and a number for each of several attributes."""
    COMPARISONS = "comparisons"
    """pairs, both responses in one text, in both orders."""
    DEMONSTRATIONS = "demonstrations"
    """texts to imitate: prompt and completion, messages, or plain text."""
    PROMPTS = "prompts"
    """prompts only."""
    RESPONSES = "responses"
    """responses to be scored, from data of any kind that holds some."""


class Layout(str, Enum):
    """How responses are laid out in the flat row; all three give the same log-probabilities."""

    PADDED = "padded"
    """one row per response, padded right: the model's own attention, the oracle of the tests."""
    PACKED = "packed"
    """one row in all, each response with a prompt of its own."""
    SHARED = "shared"
    """one row in all, a prompt stands once and its responses attend to it."""


class Example(NamedTuple):
    """One tokenised row of the data: a prompt with one or more responses."""

    row: int
    """1-based row in the source, for reports and errors."""
    ids: list[list[int]]
    """For each response, prompt and completion tokens."""
    prompt_lengths: list[int]
    """For each response, how many of its `ids` belong to the prompt."""
    masks: list[list[int]] | None = None
    """For each response, 1 for the tokens of the completion that are scored; None: all of them."""
    pairs: list[tuple[int, int]] = []  # noqa: RUF012 - never mutated
    """(chosen, rejected) indices into `ids`."""
    margins: list[float] | None = None
    """For each pair, how much better the chosen response was judged."""
    label: bool | None = None
    """Unpaired and judged data: whether the response is desirable."""
    reference_logps: list[float] | None = None
    """For each response, cached summed log-probability under the reference, nats."""
    scores: list[float] | None = None
    """For each response, how good the data say that it is; higher is better."""
    timestamp: float | None = None
    """When the preference was stated, in whatever unit the data have; larger is newer."""
    target: int | None = None
    """Index into `ids` of a text to stay close to, which may be in no pair (SLiC-HF)."""
    truncated: list[bool] | None = None
    """Responses to be scored: whether each, or its prompt, was cut."""
    step_labels: list[float] | None = None
    """Steps: for each scored token of the only response, which ends a step, how far the step is right, 0 to 1."""
    ratings: list[float] | None = None
    """Rated data: a number for each attribute; nan where the data have none."""
    weights: list[float] | None = None
    """For each pair, how much it counts, 1 on average."""
    safe: list[bool] | None = None
    """For each response, whether it is harmless."""
    label_probability: float | None = None
    """Pairs: how likely the chosen response is the better one, 0 to 1."""
    win_probabilities: list[float] | None = None
    """For each response, how likely it beats others, 0 to 1."""
    game: bool | None = None
    """Pairs: whether a model's game made the pair, and not people's judgments."""


class Segments(NamedTuple):
    """Who attends to whom in a flat row, for packed and shared layouts.

    A segment's queries are a contiguous run of the row; its keys are a contiguous prefix (the shared prompt,
    possibly empty) followed by the run itself. Attention is causal, aligned at the lower right.
    """

    query_bounds: Tensor
    """[S + 1] int32, cumulative query lengths; segment s has queries query_bounds[s]:query_bounds[s + 1]."""
    key_bounds: Tensor
    """[S + 1] int32, cumulative key lengths into `key_index`."""
    key_index: Tensor
    """[key_bounds[-1]] int64, positions in the row of each segment's keys."""
    plan: tuple[tuple[int, int, int, int], ...]
    """The same as Python ints, per segment: query start, query end, prefix start, prefix end."""
    max_query: int
    max_key: int


class Rows(NamedTuple):
    """Tokens, and what is scored in them. Flat positions index `input_ids.view(-1)`."""

    input_ids: Tensor
    """[R, T] int64; R = 1 for packed and shared."""
    position_ids: Tensor
    """[R, T] int64, position inside a token's own prompt-and-response path."""
    row_lengths: Tensor
    """[R] int64, tokens per row before the padding on the right."""
    segments: Segments | None
    """None for padded rows."""
    pred_index: Tensor
    """[N] int64, flat position whose hidden state predicts target n."""
    target: Tensor
    """[N] int64, token ids that are scored."""
    response: Tensor
    """[N] int64 in 0..M-1, the response that target n belongs to."""
    response_lengths: Tensor
    """[M] int64, scored tokens per response."""
    last_index: Tensor
    """[M] int64, flat position of each response's last token (where a reward head reads)."""
    token_index: Tensor
    """[N] int64, flat position of target n itself (where a head that scores tokens reads)."""
    num_tokens: int = 0
    """Tokens of all responses, the prompt counted with each, whatever the layout computes."""


class Counts(NamedTuple):
    """Denominators of a loss: true counts, summed over ranks and accumulation."""

    examples: Tensor | float
    """Pairs, labelled completions or demonstrations."""
    tokens: Tensor | float
    """Tokens that are imitated: chosen completions of pairs, all completions otherwise."""
    undesirable: Tensor | float = 0.0
    """Completions that are labelled undesirable."""
    desirable_tokens: Tensor | float = 0.0
    """Tokens of completions that are labelled desirable."""
    target_tokens: Tensor | float = 0.0
    """Tokens of the texts that pairs are to stay close to."""
    game: Tensor | float = 0.0
    """Pairs that come from a game between models."""

    @property
    def human(self) -> Tensor | float:
        """Pairs that people judged: all others."""
        return self.examples - self.game


class PairBatch(NamedTuple):
    """Pairs of responses; a response may take part in several pairs."""

    rows: Rows
    chosen: Tensor
    """[B] int64, index of the chosen response."""
    rejected: Tensor
    """[B] int64."""
    source_rows: Tensor
    """[B] int64, 1-based rows of the data."""
    margin: Tensor | None = None
    """[B] float64, 0 for a pair without one; None where no pair has one."""
    reference_logps: Tensor | None = None
    """[M] float64, cached summed log-probabilities under the reference, nats."""
    prompt: Tensor | None = None
    """[B] int64, pseudo-response that scores the pair's prompt; only for methods that ask for it."""
    window: Counts | None = None
    """Counts of the whole optimiser step that this micro-batch belongs to, over all ranks."""
    chosen_scores: Tensor | None = None
    """[B] float64, how good the chosen responses are said to be; None unless every pair has it."""
    rejected_scores: Tensor | None = None
    """[B] float64."""
    timestamp: Tensor | None = None
    """[B] float64, when the preferences were stated; None unless every pair has it."""
    target: Tensor | None = None
    """[B] int64, index of the response to stay close to, the chosen one where the data name none; None where no
    pair has one."""
    weight: Tensor | None = None
    """[B] float64, how much each pair counts; None where all count alike."""
    chosen_safe: Tensor | None = None
    """[B] bool, whether the chosen responses are harmless; None unless every pair says so."""
    rejected_safe: Tensor | None = None
    """[B] bool."""
    label_probability: Tensor | None = None
    """[B] float64 in 0..1, how likely the chosen responses are the better ones; None unless every pair says so."""
    chosen_wins: Tensor | None = None
    """[B] float64 in 0..1, how likely the chosen responses beat others; None unless every pair says so."""
    rejected_wins: Tensor | None = None
    """[B] float64."""
    game: Tensor | None = None
    """[B] bool, whether pairs come from a game between models; None unless every pair says so."""

    @property
    def chosen_lengths(self) -> Tensor:
        """[B] int64, scored tokens of the chosen responses."""
        return self.rows.response_lengths[self.chosen]

    @property
    def rejected_lengths(self) -> Tensor:
        """[B] int64, scored tokens of the rejected responses."""
        return self.rows.response_lengths[self.rejected]

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        tokens = self.rows.response_lengths[self.chosen].sum()
        if self.prompt is not None:
            tokens = tokens + self.rows.response_lengths[self.prompt].sum()
        close_to = self.rows.response_lengths[self.chosen if self.target is None else self.target].sum()
        game = 0.0 if self.game is None else self.game.sum()
        return Counts(examples=len(self.chosen), tokens=tokens, target_tokens=close_to, game=game)


class LabelBatch(NamedTuple):
    """Unpaired completions with a label or a score, and mismatched prompt-completion rows for a KL estimate."""

    rows: Rows
    label: Tensor | None
    """[B] bool, True for desirable; None for scored data."""
    source_rows: Tensor
    """[B] int64."""
    kl_rows: Rows | None = None
    """Each prompt with the completion of another prompt; rows whose completion equals the own are left out."""
    reference_logps: Tensor | None = None
    """[B] float64."""
    kl_reference_logps: Tensor | None = None
    """[M'] float64, for the responses of `kl_rows`."""
    window: Counts | None = None
    score: Tensor | None = None
    """[B] float64, for scored data."""

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        lengths = self.rows.response_lengths
        if self.label is None:
            return Counts(examples=len(self.source_rows), tokens=lengths.sum())
        return Counts(len(self.label), lengths.sum(), (~self.label).sum(), (lengths * self.label).sum())


class ListBatch(NamedTuple):
    """Lists of responses to one prompt each, best first."""

    rows: Rows
    places: Tensor
    """[B, K] int64, the response at each place of a list; 0 where a list is shorter."""
    mask: Tensor
    """[B, K] bool, where a list has a response."""
    scores: Tensor
    """[B, K] float64, falling along a list; 0 where a list is shorter."""
    source_rows: Tensor
    """[B] int64."""
    reference_logps: Tensor | None = None
    """[M] float64, cached summed log-probabilities under the reference, nats."""
    window: Counts | None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators; tokens are those of the best responses."""
        return Counts(examples=len(self.places), tokens=self.rows.response_lengths[self.places[:, 0]].sum())


class JudgedBatch(NamedTuple):
    """Completions with a verdict, and undesirable ones once more after a prompt that holds the judgment."""

    rows: Rows
    plain: Tensor
    """[B] int64, index of the completion after its own prompt."""
    judged: Tensor
    """[B] int64, index of the same completion after the prompt with the judgment; -1 for a desirable one."""
    label: Tensor
    """[B] bool, True for desirable."""
    source_rows: Tensor
    """[B] int64."""
    window: Counts | None = None
    reference_logps: None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        return Counts(examples=len(self.plain), tokens=self.rows.response_lengths[self.plain].sum())


class ParaphraseBatch(NamedTuple):
    """Completions, each after its prompt and after the same prompt in other words."""

    rows: Rows
    original: Tensor
    """[B] int64, index of the completion after the prompt."""
    paraphrase: Tensor
    """[B] int64, index of the completion after the paraphrase."""
    group: Tensor
    """[B] int64, equal for examples with the same prompt, on any rank: they are no contrast to each other."""
    source_rows: Tensor
    """[B] int64."""
    window: Counts | None = None
    reference_logps: None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        return Counts(examples=len(self.original), tokens=self.rows.response_lengths[self.original].sum())


class ContextBatch(NamedTuple):
    """Completions, each after its prompt and, for the teacher, after the same prompt with a context before it."""

    rows: Rows
    teacher_rows: Rows
    """The same completions with the context; targets stand in the order of those of `rows`."""
    source_rows: Tensor
    """[B] int64."""
    window: Counts | None = None
    reference_logps: None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        return Counts(examples=len(self.source_rows), tokens=self.rows.response_lengths.sum())


class StepBatch(NamedTuple):
    """Solutions, of which the tokens are scored that end a labelled step."""

    rows: Rows
    labels: Tensor
    """[N] float64 in 0..1, how far each step is right."""
    source_rows: Tensor
    """[B] int64."""
    window: Counts | None = None
    reference_logps: None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators; tokens are labelled steps."""
        return Counts(examples=len(self.source_rows), tokens=self.rows.response_lengths.sum())


class RatedBatch(NamedTuple):
    """Completions with a number for each of several attributes."""

    rows: Rows
    ratings: Tensor
    """[B, A] float64, nan where the data have none."""
    source_rows: Tensor
    """[B] int64."""
    window: Counts | None = None
    reference_logps: None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators; tokens are numbers that are there."""
        return Counts(examples=len(self.source_rows), tokens=(~self.ratings.isnan()).sum())


class ComparisonBatch(NamedTuple):
    """Pairs as texts that hold both responses, each pair in both orders."""

    rows: Rows
    first: Tensor
    """[B] int64, index of the text in which the chosen response stands first."""
    second: Tensor
    """[B] int64, index of the text in which it stands second."""
    source_rows: Tensor
    """[B] int64."""
    window: Counts | None = None
    reference_logps: None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        return Counts(examples=len(self.first), tokens=self.rows.response_lengths[self.first].sum())


class DemonstrationBatch(NamedTuple):
    """Texts to imitate."""

    rows: Rows
    source_rows: Tensor
    """[B] int64."""
    window: Counts | None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        return Counts(examples=len(self.source_rows), tokens=self.rows.response_lengths.sum())


class PromptBatch(NamedTuple):
    """Prompts to complete, padded on the left."""

    input_ids: Tensor
    """[B, T] int64."""
    attention_mask: Tensor
    """[B, T] int64, from lengths."""
    source_rows: Tensor
    """[B] int64."""


class ResponseBatch(NamedTuple):
    """Responses to be scored, whatever their data would teach."""

    rows: Rows
    indices: Tensor
    """[B] int64, positions of the examples in their set."""
    reference_logps: Tensor | None = None
    """[M] float64, cached summed log-probabilities under the reference, nats."""


Batch = (
    PairBatch
    | LabelBatch
    | ListBatch
    | DemonstrationBatch
    | JudgedBatch
    | ParaphraseBatch
    | ContextBatch
    | StepBatch
    | RatedBatch
    | ComparisonBatch
)
"""A batch that can be trained on."""
