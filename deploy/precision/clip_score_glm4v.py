#!/usr/bin/env python3
"""MindIE's clip_score_glm4v.py: how well the captions of a file fit their images, by CLIP.

It calls `glm4v precision score`, which docs/precision.md describes.
"""

import argparse
import importlib.util
import os
import sys


def main() -> None:
    """Become the command."""
    parser = argparse.ArgumentParser(description="Score the captions of a file by CLIP.")
    parser.add_argument(
        "--model_weights_path", required=True, metavar="FILE", help="open_clip_pytorch_model.bin"
    )
    parser.add_argument(
        "--image_info", required=True, metavar="FILE", help="captions, as predict_result.json"
    )
    parser.add_argument("--dataset_path", required=True, metavar="DIR", help="the images")
    parser.add_argument(
        "--model_name", default="ViT-H-14", metavar="NAME", help="architecture of the weights"
    )
    parser.add_argument("--device_ids", metavar="N", help="not needed, and ignored")
    given = parser.parse_args()
    if given.device_ids is not None:
        note("--device_ids has no effect: captions are scored on the CPU, in float32")
    if importlib.util.find_spec("glm4v") is None:
        extras = "gateway,worker,precision"
        note(f"glm4v is not installed for this Python; pip install 'glm4v-serve[{extras}]'")
        sys.exit(2)
    words = ["precision", "score", given.image_info, "--judge", given.model_weights_path]
    words += ["--model-name", given.model_name, "--images", given.dataset_path]
    os.execv(sys.executable, [sys.executable, "-m", "glm4v.cli", *words])


def note(text: str) -> None:
    """A line for the user, beside the output."""
    sys.stderr.write(f"clip_score_glm4v.py: {text}\n")


if __name__ == "__main__":
    main()
