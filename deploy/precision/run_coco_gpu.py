#!/usr/bin/env python3
"""MindIE's run_coco_gpu.py for GLM-4V: captions of a folder, in gpu_coco_predict.json.

It calls `glm4v precision predict`, whose options docs/precision.md describes, with the device that
GLM4V_DEVICE names: by default the best one that this machine has.
"""

import argparse
import importlib.util
import os
import sys

OUT = "gpu_coco_predict.json"


def main() -> None:
    """Become the command."""
    parser = argparse.ArgumentParser(description=f"Caption a folder of images in {OUT}.")
    parser.add_argument("--model_path", required=True, metavar="DIR", help="the checkpoint")
    parser.add_argument("--image_path", required=True, metavar="DIR", help="a folder of images")
    parser.add_argument("--trust_remote_code", action="store_true", help="not needed, and ignored")
    given = parser.parse_args()
    if given.trust_remote_code:
        note("--trust_remote_code is not needed: code in a checkpoint is never run")
    if importlib.util.find_spec("glm4v") is None:
        note("glm4v is not installed for this Python; pip install 'glm4v-serve[gateway,worker]'")
        sys.exit(2)
    words = ["precision", "predict", given.image_path, "--model", given.model_path, "--out", OUT]
    os.execv(sys.executable, [sys.executable, "-m", "glm4v.cli", *words])


def note(text: str) -> None:
    """A line for the user, beside the output."""
    sys.stderr.write(f"run_coco_gpu.py: {text}\n")


if __name__ == "__main__":
    main()
