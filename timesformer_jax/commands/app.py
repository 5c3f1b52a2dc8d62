"""`timesformer app`: serves a page that explains what a model says of a video."""

import dataclasses
import threading
from typing import Annotated

import tyro

from ..support.progress import say, show_progress
from .options import Command, Loading


@dataclasses.dataclass(frozen=True)
class App(Command):
    """Serve a page for the browser: drop a video, see its classes, the frames and what the model attends to.

    Needs Gradio: `pip install 'gradio>=6,<7'`. Videos stay on this machine, and nothing is asked of others.

    Attributes:
        model: a converted or Transformers directory, a weights file, or a Hub id.
        host: the address to listen at; 0.0.0.0 lets other machines in.
        port: to listen at; 0 takes one that is free.
        loading: how the checkpoint is loaded.
    """

    model: str = "motion-tiny"
    host: str = "127.0.0.1"
    port: int = 7860
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Serves the page until it is interrupted."""
        from ..demo.app import import_gradio, listen, serve

        with listen(self.host, self.port) as listening:  # first of all: what is loaded next takes its time
            with show_progress("loading Gradio"):
                import_gradio()
            with show_progress(f"loading {self.model}"):
                from ..demo.explainer import Explainer

                explainer = Explainer.load(self.model, **self.loading.options())
            with serve(explainer, listening):
                say("the page is served until you press Ctrl-C:")
                print(f"http://{self.host}:{listening.getsockname()[1]}", flush=True)
                try:
                    threading.Event().wait()
                except KeyboardInterrupt:
                    say("closed")
        return 0
