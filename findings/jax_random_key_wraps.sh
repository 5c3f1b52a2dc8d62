#!/usr/bin/env bash
# jax.random.key takes seeds of any size, and without x64 keeps 32 bits of them: key(2**32) is key(0), without a warning.
#
# Versions: jax 0.10.2 and jaxlib 0.10.2 on a CPU, Python 3.11.
# Seen: key(2**32) equals key(0), key(2**32 + 5) equals key(5); with jax_enable_x64 they differ.
# Who meets it: people who take seeds from a hash, a clock in nanoseconds or numpy's SeedSequence, and believe that two runs
#   are independent which are the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 'numpy<3'
JAX_PLATFORMS=cpu "$work/venv/bin/python" -W error - <<'PY'
import jax


def data(seed):
    return jax.random.key_data(jax.random.key(seed)).tolist()


for small, large in ((0, 2**32), (5, 2**32 + 5)):
    print(f"key({small}) is {data(small)}, key({large}) is {data(large)}")
    assert data(small) == data(large)
    with jax.enable_x64(True):
        assert data(small) != data(large)
print("as described")
PY
