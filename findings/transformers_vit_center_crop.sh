#!/usr/bin/env bash
# One preprocessor file of a ViT means other pixels in Transformers 4 and 5: only 5 crops by `do_center_crop`.
#
# Versions: transformers 4.56.2 and 5.24.0, torch 2.13.0 (CPU), pillow 12, Python 3.11.
# Seen: ViTImageProcessor(size={"height": 30, "width": 30}, do_center_crop=True, crop_size={"height": 20, "width": 20}), saved by
#   5.24.0, gives 20 x 20 pixels there. 4.56.2 loads the file without a word, and gives 30 x 30: its class has no such step.
# Who meets it: people who fine-tune with one version and serve with the other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/use.py" <<'PY'
import sys

import numpy as np
import transformers

directory = sys.argv[1]
if sys.argv[2:] == ["write"]:
    square = {"height": 30, "width": 30}
    made = transformers.ViTImageProcessor(size=square, do_center_crop=True, crop_size={"height": 20, "width": 20})
    made.save_pretrained(directory)
processor = transformers.ViTImageProcessor.from_pretrained(directory)
frame = np.zeros((40, 50, 3), np.uint8)
print(*np.asarray(processor(frame, return_tensors="np")["pixel_values"]).shape[2:])
PY
for version in 5.24.0 4.56.2; do
  python3.11 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 "transformers==$version" 'pillow<13' 'numpy<3'
done
new=$("$work/5.24.0/bin/python" "$work/use.py" "$work/processor" write 2> /dev/null)
old=$("$work/4.56.2/bin/python" "$work/use.py" "$work/processor" 2> /dev/null)
echo "5.24.0: $new; 4.56.2: $old"
[[ $new == "20 20" && $old == "30 30" ]]
echo "as described"
