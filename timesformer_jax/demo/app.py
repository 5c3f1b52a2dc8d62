"""A page in the browser: drop a video, see its classes, the frames that the model saw, and what it attends to in them.

    with listen("127.0.0.1", 7860) as listening, serve(Explainer.load("motion-tiny"), listening):
        ...                                                  # what `timesformer app` does, until it is interrupted

Gradio makes the page. It is told to send nothing to anybody, and to load nothing from elsewhere: the page works on a
machine without a network.
"""

import contextlib
import os
import socket
import tempfile
import threading
import warnings
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from ..data.motion import OPPOSITE, MotionTask, motion_clip, write_keyframes
from ..errors import TimesformerError
from ..interpret.choices import Choices, Method
from ..video.notices import VideoWarning
from .explainer import CLASSES, Explainer

_NAMES: dict[Method, str] = {
    "attention": "spatial attention of CLS",
    "rollout": "attention rollout",
    "relevance": "relevance for a class",
    "temporal": "temporal attention of a patch",
}
_DEFAULT = -1
"""The value of a choice that is left to the method (the mean, the middle, the likeliest): the page knows no None."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address of this machine.

    Args:
        host: the address; 0.0.0.0 lets other machines in.
        port: of the address; 0 takes one that is free.

    Raises:
        TimesformerError: there is no such port, somebody else listens there, or the address is not this machine's.
    """
    if not 0 <= port < 2**16:
        raise TimesformerError(f"--port must be from 0 to {2**16 - 1}, not {port}.")
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise TimesformerError(
            f"the page can't be served at {host}, port {port} ({reason}); choose another --port or --host."
        ) from None


@contextlib.contextmanager
def serve(explainer: Explainer, listening: socket.socket) -> Generator[None]:
    """Serves the page until the context is left.

    Args:
        explainer: answers the page.
        listening: where it is served; see `listen`.

    Raises:
        TimesformerError: Gradio is not installed.
    """
    gradio = import_gradio()
    import fastapi
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="timesformer-app-") as directory:
        # Not `launch`, which asks the page for itself first: a proxy or a busy machine makes it give up.
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(),
            build_page(explainer, Path(directory)),
            path="/",
            ssr_mode=False,
            footer_links=[],
            # Gradio's own themes load their fonts from elsewhere.
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def import_gradio() -> Any:
    """Imports Gradio, and turns off what it would send to others.

    Raises:
        TimesformerError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # A server of Gradio's own says so on the terminal.
    warnings.filterwarnings("ignore", message=".*HTTP_422_UNPROCESSABLE")
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise TimesformerError("the page needs Gradio, which is not installed: `pip install 'gradio>=6,<7'`.") from None
    return gradio


def build_page(explainer: Explainer, directory: Path) -> Any:
    """Lays out the page, a `gradio.Blocks`.

    Args:
        explainer: answers the page.
        directory: for its pictures.
    """
    gradio = import_gradio()
    config, methods, grid = explainer.encoder.model.config, explainer.methods, explainer.grid
    names = [config.id2label[index] for index in range(config.num_labels)]

    def explain(video: str | None, method: Method, *chosen: int) -> Any:
        if video is None:
            return None, None, None
        layer, head, target, row, column = (None if number == _DEFAULT else number for number in chosen)
        patch = explainer.middle
        if patch is not None:
            patch = patch[0] if row is None else row, patch[1] if column is None else column
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", VideoWarning)
                shown = explainer.explain(video, method, Choices(layer, head, patch, target), directory)
        except TimesformerError as error:
            message = str(error).replace(video, Path(video).name)  # where Gradio keeps it is nobody's concern
            raise gradio.Error(message, None, title="This video can't be shown", print_exception=False) from None
        for warning in caught:
            gradio.Warning(str(warning.message).replace(video, Path(video).name), None)
        scores = {prediction.label: prediction.score for prediction in shown.predictions}
        return scores, str(shown.picture), shown.animation and str(shown.animation)

    def dropdown(label: str, default: str, options: Iterable[object], *, visible: bool = True) -> Any:
        choices = [(default, _DEFAULT), *((str(option), number) for number, option in enumerate(options))]
        return gradio.Dropdown(choices, value=_DEFAULT, label=label, visible=visible, min_width=120)

    with gradio.Blocks(title="TimeSformer", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(
            f"## What {explainer.encoder.name} sees\n\nIt looks at {explainer.classify.sampling}, and tells "
            + (f"{len(names)} classes apart." if len(names) > 12 else f"these classes apart: {', '.join(names)}.")
        )
        with gradio.Row():
            with gradio.Column(min_width=300):
                video = gradio.Video(label="video", sources=["upload"], height=300)
                examples = write_examples(names, directory)
                if examples:
                    gradio.Examples([[str(path)] for path in examples], video, label="videos to try")
            with gradio.Column(min_width=300):
                classes = gradio.Label(label="classes", num_top_classes=CLASSES)
                method = gradio.Radio([(_NAMES[name], name) for name in methods], value=methods[0], label="show")
                with gradio.Row():
                    layer = dropdown("layer (of attention)", "mean of all", range(config.num_hidden_layers))
                    head = dropdown("head (of attention)", "mean of all", range(config.num_attention_heads))
                    target = dropdown("class (of relevance)", "the likeliest", names, visible="relevance" in methods)
                with gradio.Row():
                    rows, columns = grid or (0, 0)
                    has_patches = "temporal" in methods and grid is not None
                    row = dropdown("row of the patch (in time)", "middle", range(rows), visible=has_patches)
                    column = dropdown("column of the patch (in time)", "middle", range(columns), visible=has_patches)
        picture = gradio.Image(label="frames and attention", type="filepath", format="png", interactive=False)
        animation = gradio.Image(label="in motion", type="filepath", format="gif", interactive=False)
        choices = [layer, head, target, row, column]
        gradio.on(
            [video.change, method.input, *(choice.input for choice in choices)],
            explain,
            [video, method, *choices],
            [classes, picture, animation],
            concurrency_limit=1,
        )
    return page


def write_examples(labels: Iterable[str], directory: Path) -> list[Path]:
    """Writes videos to try for a model of the motion task, which knows nothing but moving shapes; none for others."""
    if not set(labels) <= set(OPPOSITE):
        return []
    paths: list[Path] = []
    for number in range(4):
        frames, name = motion_clip(MotionTask(), seed=2026, split="test", number=2 * number)
        paths.append(directory / f"{name}.mp4")
        write_keyframes(paths[-1], frames)
    return paths
