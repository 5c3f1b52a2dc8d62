#!/usr/bin/env bash
# PyAV knows fewer kinds of side data than its FFmpeg: asking a frame for one that it has not may be a ValueError.
#
# Versions: av 18.1.0, numpy 2, pillow 12, Python 3.11.
# Seen: of the one frame of a plain TIFF that Pillow wrote, `frame.side_data.get("DISPLAYMATRIX")` raises ValueError ("... is not
#   a valid Type"), where None would be expected: the frame carries a kind of side data that PyAV's enumeration lacks, and
#   the container of side data is filled before anything is looked up. The frame's pixels are read without trouble.
# Who meets it: whoever looks for the rotation of frames by their display matrix, as long as no frame of that kind comes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 'numpy<3' 'pillow<13'
cd "$work"
"$work/venv/bin/python" - <<'PY'
import av
import numpy as np
from PIL import Image

picture = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
Image.fromarray(picture).save("picture.tiff")
with av.open("picture.tiff") as container:
    frame = next(container.decode(video=0))
    assert (frame.to_ndarray(format="rgb24") == picture).all()
    try:
        frame.side_data.get("DISPLAYMATRIX")
    except ValueError as error:
        print("ValueError:", error)
    else:
        raise SystemExit("no longer so")
print("as described")
PY
