"""A run's state on disk, so that a run that was cut goes on: written whole or not at all."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from recipes.demo_model.learner import Learner
from recipes.demo_model.sources import cache_folder

FILE = "training.safetensors"
RUN = cache_folder() / "run"  # where a run is kept unless another folder is named


def save_progress(
    out: Path, learner: Learner, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    """Weights and the optimizers' moments after `step` steps."""
    tensors = {f"weight.{name}": value for name, value in learner.state_dict().items()}
    for name, parameter in learner.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
    out.mkdir(parents=True, exist_ok=True)
    partial = out / (FILE + ".partial")
    save_file(tensors, partial, metadata={"step": str(step)})
    os.replace(partial, out / FILE)


def load_progress(out: Path, learner: Learner, optimizers: list[torch.optim.Optimizer]) -> int:
    """Steps done; 0 where nothing was saved."""
    if not (out / FILE).exists():
        return 0
    with safe_open(out / FILE, "pt") as file:
        weights = {n: file.get_tensor(f"weight.{n}") for n in learner.state_dict()}
        learner.load_state_dict(weights)
        moments: dict[str, dict[str, torch.Tensor]] = {}  # by parameter
        for saved in set(file.keys()):
            key, name = saved.split(".", 1)
            if key != "weight":
                moments.setdefault(name, {})[key] = file.get_tensor(saved)
        names = {parameter: name for name, parameter in learner.named_parameters()}
        for optimizer in optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                state = moments.get(names[parameter])
                if state:  # a parameter that was never used has none
                    optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device)
                        for key, value in state.items()
                    }
        return int(file.metadata()["step"])


def load_weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights of the network itself, by their names in a checkpoint."""
    start = "weight.network."
    with safe_open(out / FILE, "pt") as file:
        names = [name for name in sorted(file.keys()) if name.startswith(start)]
        return {name.removeprefix(start): file.get_tensor(name) for name in names}
