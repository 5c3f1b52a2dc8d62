"""A process that has imported everything and forks the processes of jobs, which then need not import it once more.

Reads a line of JSON for each process to start, and writes one for each that has started or ended.
"""

import json
import os
import select
import sys
import traceback


def main() -> None:
    import grain
    import jax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import tensorboardX  # noqa: F401

    import timesformer_jax.evaluation.evaluate
    import timesformer_jax.training.loop  # noqa: F401
    from timesformer_jax import cli
    from timesformer_jax.support import compilation

    assert grain.MapDataset is not None
    compilation.enable_compilation_cache = lambda *_: None  # the environment says where it is
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            content = os.read(0, 2**20)
            if not content:
                return
            *lines, pending = (pending + content).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if not pid:
                    run(order, cli.main)
                tell({"order": order["number"], "pid": pid})
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            tell({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def run(order: dict, command) -> None:
    """Becomes a process of a job."""
    log = os.open(order["log"], os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= order["environment"]
    code = 1
    try:
        exec(order["before"], {"__name__": "before"})
        code = command(order["arguments"])
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
    sys.exit(code)


def tell(fact: dict) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
