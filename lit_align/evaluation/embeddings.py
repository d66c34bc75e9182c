"""Responses as points in the plane: mean-pooled last-layer states of a model, projected by PCA or t-SNE.

L. van der Maaten, G. Hinton, "Visualizing Data using t-SNE", JMLR 9 (2008).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_align.core.batch import Example
from lit_align.core.errors import ConfigError, DataError
from lit_align.core.pretrained import load_config
from lit_align.evaluation.document import Document
from lit_align.judges.text_model import TextModel

CAPTION = (
    "Each point is a response: the mean of the last layer's states over its tokens, given its prompt. That the colours "
    "do not separate is to be expected: topics decide where a response lies, far more than how good it is."
)
PERPLEXITY = 30.0
_TSNE_DIMENSIONS = 50
_FEWEST = 5
"""Responses that can be laid out."""


def embed(
    model: str, prompts: Sequence[Any], responses: Sequence[str], **settings: Any
) -> tuple[Tensor, list[int], int]:
    """Mean-pooled last-layer states of responses.

    Args:
        model: folder or hub name of a language model or a reward model.
        prompts: texts or messages.
        responses: texts, one for each prompt.
        **settings: further settings of `judges.text_model.TextModel`.

    Returns:
        [M, H] float64, the places of these M responses among those given, and how many could not be read.

    Raises:
        ConfigError: the model cannot be read.
    """
    names = getattr(load_config(model), "architectures", None) or []
    is_reward_model = any("Classification" in name for name in names)
    reader = TextModel(model, "reward" if is_reward_model else "lm", **settings)
    if is_reward_model:
        reader.outputs = len(reader.label_names)
    read = reader.read(prompts, responses)
    kept = [index for index, example in enumerate(read) if isinstance(example, Example)]
    examples = [example for example in read if isinstance(example, Example)]
    vectors = [values[0] for values in reader.values(examples, lambda scorer, rows: scorer.embed(rows))]
    reader.release()
    return torch.tensor(vectors, dtype=torch.float64), kept, len(read) - len(kept)


def pca(vectors: Tensor, dimensions: int = 2) -> Tensor:
    """Principal components.

    Args:
        vectors: [M, H].
        dimensions: how many components are wanted, D; there are no more than M or H.

    Returns:
        [M, D], each component with the sign that makes its largest weight positive, so that signs do not depend on the
        machine.
    """
    centred = vectors - vectors.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:dimensions]
    largest = directions.abs().argmax(1)
    signs = directions[torch.arange(len(directions)), largest].sign()
    return centred @ (directions * signs[:, None]).T


def tsne(vectors: Tensor, seed: int = 0) -> Tensor:
    """t-SNE of the first 50 principal components, perplexity 30, or less where there are few responses.

    Args:
        vectors: [M, H], at least five of them.
        seed: of what is random.

    Returns:
        [M, 2].

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    require_tsne()
    from sklearn.manifold import TSNE

    first = pca(vectors, min(_TSNE_DIMENSIONS, *vectors.shape))
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    projected = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(first.numpy())
    return torch.from_numpy(projected).double()


def require_tsne() -> None:
    """Refuse t-SNE where scikit-learn is missing, before anything slow has begun.

    Raises:
        ConfigError: it is.
    """
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError as error:
        fix = "pip install scikit-learn, or leave --tsne out: PCA needs nothing"
        raise ConfigError("t-SNE needs scikit-learn", got=str(error), fix=fix) from error


def add_embeddings(
    document: Document,
    model: str,
    groups: Mapping[str, tuple[Sequence[Any], Sequence[str]]],
    *,
    with_tsne: bool = False,
    seed: int = 0,
) -> None:
    """Add figures of responses in the plane, a colour for each group.

    Args:
        document: where.
        model: folder or hub name, see `embed`.
        groups: prompts and responses by the name of the group.
        with_tsne: t-SNE beside PCA.
        seed: of t-SNE.

    Raises:
        ConfigError: the model cannot be read, or scikit-learn is missing.
        DataError: fewer than five responses can be read.
    """
    prompts = [prompt for one, _ in groups.values() for prompt in one]
    responses = [response for _, many in groups.values() for response in many]
    names = [name for name, (_, many) in groups.items() for _ in many]
    vectors, kept, unread = embed(model, prompts, responses)
    if len(kept) < _FEWEST:
        raise DataError("too few responses to embed", value=f"{len(kept)} could be read", fix="give five or more")
    note = f"{CAPTION} Embedded by {Path(model).name}."
    note += f" {unread} responses could not be read and are left out." if unread else ""
    projections = {"PCA": pca(vectors)}
    if with_tsne:
        projections["t-SNE"] = tsne(vectors, seed)
    for method, points in projections.items():
        series: dict[str, list[list[float]]] = {name: [] for name in groups}
        for place, point in zip(kept, points.tolist(), strict=True):
            series[names[place]].append(point)
        axes = ("first component", "second component") if method == "PCA" else ("t-SNE 1", "t-SNE 2")
        document.figure("scatter", f"Responses in the plane, {method}", note, x=axes[0], y=axes[1], series=series)
