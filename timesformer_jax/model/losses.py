"""The three losses that `labels` can ask for (TimesformerForVideoClassification.forward in the reference)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, Shaped

from ..config import ProblemType

IGNORED_LABEL = -100
"""A class index that cross-entropy leaves out of the mean."""


def problem_type_of(num_labels: int, labels: Shaped[Array, "..."]) -> ProblemType:
    """The loss that is meant when the config has no `problem_type`: by the number and the type of the labels."""
    if num_labels == 1:
        return "regression"
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return "single_label_classification"
    return "multi_label_classification"


def classification_loss(
    logits: Float[Array, "b labels"], labels: Shaped[Array, "..."], problem_type: ProblemType | None = None
) -> Float[Array, ""]:
    """The mean loss of a batch, computed in float32 or better.

    Args:
        logits: one row a clip.
        labels: class indices (b,) for cross-entropy; targets like the logits for the other two (for a single label
            also (b,)).
        problem_type: "single_label_classification" is cross-entropy, "regression" mean squared error and
            "multi_label_classification" binary cross-entropy; None chooses as `problem_type_of` says.

    Raises:
        ValueError: the labels don't have the shape or the type that the loss needs.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    problem_type = problem_type or problem_type_of(logits.shape[-1], labels)
    if problem_type == "single_label_classification":
        _require_shape(labels, logits.shape[:1], problem_type)
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(f"labels must be class indices (integers) for {problem_type}, not {labels.dtype}.")
        return cross_entropy(logits, labels)
    if logits.shape[-1] == 1 and labels.ndim == 1:
        labels = labels[:, None]
    _require_shape(labels, logits.shape, problem_type)
    labels = labels.astype(logits.dtype)
    if problem_type == "regression":
        return jnp.mean(jnp.square(logits - labels))
    # log(1 + exp(x)) - x y, which no large logit overflows.
    return jnp.mean(jax.nn.softplus(logits) - logits * labels)


def cross_entropy(logits: Float[Array, "b labels"], labels: Num[Array, " b"]) -> Float[Array, ""]:
    """Mean negative log-likelihood of the labels that are not -100; NaN for a label that is no class."""
    counted = labels != IGNORED_LABEL
    index = jnp.where(counted, labels, 0)
    # A negative index would count from the end: send it out of bounds, where the fill value waits.
    index = jnp.where(index < 0, logits.shape[-1], index)
    log_likelihood = jnp.take_along_axis(
        jax.nn.log_softmax(logits), index[:, None], axis=-1, mode="fill", fill_value=jnp.nan
    )[:, 0]
    return -jnp.where(counted, log_likelihood, 0).sum() / counted.sum()


def _require_shape(labels: Shaped[Array, "..."], shape: tuple[int, ...], problem_type: ProblemType) -> None:
    if labels.shape != shape:
        raise ValueError(f"labels must have shape {shape} for {problem_type}, not {labels.shape}.")
