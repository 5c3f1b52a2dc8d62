#!/usr/bin/env bash
# PEFT keeps one module inside another whole twice where one name ends both, and then saves what it can't load.
#
# Versions: peft 0.21.2, transformers 4.56.2, torch 2.13.0 (CPU), Python 3.11.
# Seen: modules_to_save=["embeddings"] is the end of two of TimeSformer's names: `embeddings`, and `patch_embeddings` in it.
#   Both are copied. The forward pass uses the patch_embeddings inside the copy of `embeddings`, which is not trained; trained,
#   and saved under that name, is the other copy, which nothing uses. PeftModel.from_pretrained ends with a KeyError.
# Who meets it: people who train TimeSformer's (or ViT's) embeddings whole beside LoRA; ["timesformer.embeddings"] is one alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==4.56.2 peft==0.21.2 'numpy<3'
cat > "$work/use.py" <<'PY'
import sys

import peft
import torch
import transformers
from safetensors.torch import load_file

sizes = {"image_size": 8, "patch_size": 4, "num_frames": 2, "hidden_size": 12, "num_hidden_layers": 1}
WEIGHT = "base_model.model.timesformer.embeddings.patch_embeddings.projection.weight"


def base():
    torch.manual_seed(0)
    config = transformers.TimesformerConfig(**sizes, num_attention_heads=2, intermediate_size=16)
    return transformers.TimesformerForVideoClassification(config)


def saved_and_loaded(directory, *names):
    model = peft.get_peft_model(base(), peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=list(names)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    model.save_pretrained(directory)
    used = model.state_dict()[WEIGHT.replace(".patch", ".modules_to_save.default.patch")]
    saved = load_file(f"{directory}/adapter_model.safetensors")[WEIGHT]
    try:
        peft.PeftModel.from_pretrained(base(), directory)
        loads = "loads"
    except KeyError:
        loads = "KeyError"
    return f"{'saves' if saved.equal(used) else 'does not save'} what it uses, {loads}"


print("embeddings:", saved_and_loaded(f"{sys.argv[1]}/nested", "embeddings"))
print("timesformer.embeddings:", saved_and_loaded(f"{sys.argv[1]}/single", "timesformer.embeddings"))
PY
seen=$("$work/env/bin/python" -W ignore "$work/use.py" "$work" 2> /dev/null)
echo "$seen"
[[ $seen == "embeddings: does not save what it uses, KeyError"$'\n'"timesformer.embeddings: saves what it uses, loads" ]]
echo "as described"
