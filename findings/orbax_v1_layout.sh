#!/usr/bin/env bash
# Orbax's V1 interface of 0.11.30 can't read what V1 of 0.12.8 writes: the tree moved to another folder.
#
# Versions: orbax-checkpoint 0.11.30 and 0.12.8 (orbax.checkpoint.experimental.v1), jax 0.10.2, Python 3.11.
# Seen: save_pytree puts the tree into `pytree` beside the checkpoint's metadata in 0.11.30, and into `state` in 0.12.8.
#   V1 of 0.12.8 reads both, V1 of 0.11.30 its own alone and ends with InvalidLayoutError. The older interface
#   (PyTreeCheckpointHandler) of either version reads neither folder from the checkpoint's own path, while what the older
#   interface writes is read by the older interface of both, and by V1 of 0.12.8.
# Who meets it: people who write checkpoints by V1 on one machine and read them on another with an older Orbax.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/tree.py" <<'PY'
import sys

import numpy as np
import orbax.checkpoint.experimental.v1 as v1

what, path = sys.argv[1:]
if what == "write":
    v1.save_pytree(path, {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)})
else:
    try:
        print("read:", v1.load_pytree(path)["kernel"].shape)
    except Exception as error:
        print("not read:", type(error).__name__)
PY

for version in 0.11.30 0.12.8; do
  python3.11 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check "orbax-checkpoint==$version" jax==0.10.2 'numpy<3'
  JAX_PLATFORMS=cpu "$work/$version/bin/python" "$work/tree.py" write "$work/written_by_$version" 2> /dev/null
  echo "$version writes: $(ls "$work/written_by_$version" | tr '\n' ' ')"
done

read_by() { JAX_PLATFORMS=cpu "$work/$1/bin/python" "$work/tree.py" read "$work/written_by_$2" 2> /dev/null; }
for reader in 0.11.30 0.12.8; do
  for writer in 0.11.30 0.12.8; do
    echo "V1 of $reader on what V1 of $writer wrote: $(read_by $reader $writer)"
  done
done
[[ -d $work/written_by_0.11.30/pytree && -d $work/written_by_0.12.8/state ]]
[[ $(read_by 0.12.8 0.11.30) == "read:"* && $(read_by 0.11.30 0.12.8) == "not read: InvalidLayoutError" ]]
echo "as described"
