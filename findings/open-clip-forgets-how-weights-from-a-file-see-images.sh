#!/usr/bin/env bash
# open_clip_torch 3.3.0: the same weights see other images when they come from a file than when they are downloaded.
#
# One would expect: create_model_and_transforms(NAME, pretrained=FILE) prepares images as it does for the published
# weights of NAME that lie in FILE, or says that it does not know how.
# Seen on 2026-11-30 (Python 3.11, Linux x86-64, torch 2.13.0, torchvision 0.28.0): means, deviations, interpolation
# and resizing belong to the tag of a download. A file gets OpenAI's, with no warning. For PE-Core-T-16-384:
#                     published (tag meta)    from a file
#   mean              0.5 0.5 0.5             0.48145466 0.4578275 0.40821073
#   interpolation     bilinear                bicubic
#   resizing          squeezed to a square    the middle is cut out
# Of an image twice as wide as high, half of the pixels are never seen. Of 51 architectures all published weights want
# something else than a file gets (SigLIP, CLIPA, PE-Core, MobileCLIP ...), and of three more some do: DFN-5B under
# ViT-H-14-quickgelu, LAION-2B under ViT-L-14.
# Who meets it: whoever scores images or captions on a network without the hub, with weights that were copied there.
# A folder with open_clip_config.json, given as local-dir:FOLDER, keeps what was published.
# Where no CPU build of torch is configured, pip downloads some 3 GB. 250 MB of random weights are written.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "open_clip_torch==3.3.0" "torch==2.13.0" \
    "torchvision==0.28.0" "timm==1.0.29"

cat >"$work/seen.py" <<'PYTHON'
import importlib
import sys
import warnings

import torch

NAME, TAG = "PE-Core-T-16-384", "meta"
FIELDS = ("mean", "std", "interpolation", "resize_mode")


def load():
    """open_clip; PyPI's torchvision lacks its compiled operators beside a CPU build of torch, and needs none here."""
    try:
        return importlib.import_module("open_clip")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith(("torchvision", "open_clip"))]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        return importlib.import_module("open_clip")


open_clip = load()
usual = open_clip.transform.PreprocessCfg()


def wants(model, tag):
    """What was published for a download, where it is not the usual."""
    published = open_clip.get_pretrained_cfg(model, tag)
    values = {field: published.get(field, getattr(usual, field)) for field in FIELDS}
    return {field: tuple(value) if isinstance(value, list) else value for field, value in values.items()}


file = sys.argv[1]
torch.save(open_clip.create_model(NAME).state_dict(), file)
warnings.simplefilter("error")
model, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=file, require_pretrained=True)
from_file = {field: model.visual.preprocess_cfg[field] for field in FIELDS}
published = wants(NAME, TAG)
for field in FIELDS:
    print(f"{field:<14} published {published[field]}, from a file {from_file[field]}")

ordinary = {field: getattr(usual, field) for field in FIELDS}
other = {}
for name, tag in open_clip.list_pretrained():
    other.setdefault(name, []).append(wants(name, tag) != ordinary)
none = sum(all(each) for each in other.values())
some = sorted(name for name, each in other.items() if any(each) and not all(each))
print(f"architectures of whose published weights none fit: {none}; only some: {some}")

from PIL import Image

wide = Image.new("RGB", (768, 384), "white")
wide.paste("black", (192, 0, 576, 384))
print("of a black middle between white sides a file's judge sees white:", bool((preprocess(wide) > 0).any()))
stated = (
    published == {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    and from_file["resize_mode"] == "shortest"
    and from_file["interpolation"] == "bicubic"
    and tuple(from_file["mean"]) == (0.48145466, 0.4578275, 0.40821073)
    and none == 51
    and some == ["ViT-H-14", "ViT-H-14-quickgelu", "ViT-L-14"]
    and not (preprocess(wide) > 0).any()
)
sys.exit(not stated)
PYTHON
"$work/venv/bin/python" "$work/seen.py" "$work/weights.bin"
