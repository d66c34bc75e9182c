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
    """Unpaired data: whether the response is desirable."""
    reference_logps: list[float] | None = None
    """For each response, cached summed log-probability under the reference, nats."""
    scores: list[float] | None = None
    """Responses to be scored: what the data say of each, where they are ranked."""
    truncated: list[bool] | None = None
    """Responses to be scored: whether each, or its prompt, was cut."""


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
    num_tokens: int = 0
    """Tokens of all responses, the prompt counted with each, whatever the layout computes."""


class Counts(NamedTuple):
    """Denominators of a loss: true counts, summed over ranks and accumulation."""

    examples: Tensor | float
    """Pairs, labelled completions or demonstrations."""
    tokens: Tensor | float
    """Tokens that are imitated: chosen completions of pairs, all completions otherwise."""


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

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        tokens = self.rows.response_lengths[self.chosen].sum()
        if self.prompt is not None:
            tokens = tokens + self.rows.response_lengths[self.prompt].sum()
        return Counts(examples=len(self.chosen), tokens=tokens)


class LabelBatch(NamedTuple):
    """Unpaired completions with a label, and mismatched prompt-completion rows for a KL estimate."""

    rows: Rows
    label: Tensor
    """[B] bool, True for desirable."""
    source_rows: Tensor
    """[B] int64."""
    kl_rows: Rows | None = None
    """Each prompt with the completion of another prompt; rows whose completion equals the own are left out."""
    reference_logps: Tensor | None = None
    """[B] float64."""
    kl_reference_logps: Tensor | None = None
    """[M'] float64, for the responses of `kl_rows`."""
    window: Counts | None = None

    def counts(self) -> Counts:
        """What this micro-batch adds to the denominators."""
        return Counts(examples=len(self.label), tokens=self.rows.response_lengths.sum())


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


Batch = PairBatch | LabelBatch | DemonstrationBatch
"""A batch that can be trained on."""
