"""One case of an ablation: what a variant costs, or what it learns from one seed.

    python -m timesformer_jax.ablation.case    # reads a pickled `Case`, answers with a line of JSON

Each case is computed in a process of its own: one that runs out of memory is killed, and must not take the others with
it, and each finds the machine as the first did.
"""

import dataclasses
import json
import logging
import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import jax

from ..data.config import Views
from ..data.motion import OPPOSITE, within_pairs
from ..errors import TimesformerError, TrainingError, first_line
from ..evaluation.evaluate import evaluate
from ..support.dtypes import enable_x64
from ..training.loop import train
from ..training.recipe import TrainConfig
from .costs import measure_cost


@dataclasses.dataclass(frozen=True)
class Case:
    """What is to be computed.

    Attributes:
        recipe: of the variant.
        run: directory to train in; None to measure what the variant costs.
        views: of each video, for the evaluation.
    """

    recipe: TrainConfig
    run: str | None
    views: Views


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a case: values, or an error; neither where training was asked to stop before its last step.

    Attributes:
        values: by name.
        error: a sentence.
    """

    values: dict[str, Any] | None = None
    error: str | None = None


def compute(case: Case) -> Answer:
    """Measures or trains. Errors that a person can put right, and a lack of memory, are answers, too."""
    try:
        if case.run is None:
            return Answer(values=measure_cost(case.recipe))
        return Answer(values=train_and_evaluate(case.recipe, Path(case.run), case.views))
    except (TimesformerError, TrainingError) as error:
        return Answer(error=str(error))
    except MemoryError:
        return Answer(error="there is not enough memory.")
    except OSError as error:
        return Answer(error=f"{error.filename or 'a file'}: {error.strerror or error}.")
    except jax.errors.JaxRuntimeError as error:  # such as RESOURCE_EXHAUSTED, of an accelerator
        return Answer(error=first_line(error))


def train_and_evaluate(recipe: TrainConfig, run: Path, views: Views) -> dict[str, Any] | None:
    """Trains a recipe, or goes on with its run, and evaluates it.

    Returns:
        Accuracies, steps and loss, and where the classes are motions the share within pairs; None where training was
        asked to stop before its last step.
    """
    # Without validation on the way, which would take unequal time from the variants.
    trained = train(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, validation=None)), run)
    if not trained.finished:
        return None
    evaluation = evaluate(
        run,
        recipe.data,
        views=views,
        batch_size=recipe.batch_size // recipe.accumulation,
        dtype=recipe.model.dtype,
        mesh=recipe.mesh,
        training_weights=None,
    )
    values = {**evaluation.summary(), "steps": trained.step, "loss": trained.metrics["loss"]}
    if all(OPPOSITE.get(name) in evaluation.classes for name in evaluation.classes):
        values["within_pairs"] = within_pairs(evaluation.classes, evaluation.confusion)
    return values


def main() -> None:
    """Computes the case that the parent process sends, and answers it."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports its progress there
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed on the way is not part of the answer
    case: Case = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    enable_x64(case.recipe.model.dtype)
    print(json.dumps(dataclasses.asdict(compute(case))), file=answers, flush=True)


def _end_with_parent() -> None:
    """Stops this process, as a request to stop does, once nobody is there to hear the answer."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
