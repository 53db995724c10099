"""A CLIP model of open_clip as a judge: images and texts become unit vectors, in float32."""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from glm4v.errors import CheckpointError, ConfigurationError
from precision.judge.library import load_open_clip
from precision.judge.preprocessing import check_preprocessing
from precision.judge.weights_file import check_weights_file, explained

LOCAL_DIR = "local-dir:"  # open_clip's name for a folder with configuration, weights, tokenizer
_CONFIG = "open_clip_config.json"
_WEIGHTS = (  # the order in which open_clip prefers them
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class JudgeName:
    """What a judge is known by: scores of different ones are never compared."""

    model: str  # the architecture, or local-dir
    weights_sha256: str
    activation: str  # GELU or QuickGELU, which the weights must have been trained with
    context_tokens: int


class Judge:
    """Loaded once; `name` says which one it is, `warning` what may be wrong with its scores."""

    def __init__(self, weights: str, model: str) -> None:
        """Load `weights`, a file for the architecture `model`, or `local-dir:FOLDER`.

        Raises CheckpointError for weights that cannot be loaded, and ConfigurationError for an
        unknown architecture or a package that is missing.
        """
        folder = Path(weights.removeprefix(LOCAL_DIR)) if weights.startswith(LOCAL_DIR) else None
        file = Path(weights) if folder is None else _weights_in(folder)
        if folder is None:
            check_weights_file(file)
        open_clip = load_open_clip()
        source = model if folder is None else f"{LOCAL_DIR}{folder.resolve()}"
        self.warning = ""
        if folder is None:
            _check_architecture(open_clip, model)
            self.warning = check_preprocessing(open_clip, model)
        self._tokenizer = _tokenizer(open_clip, source, is_local=folder is not None)
        self._model, self._preprocess = _load(open_clip, source, file, is_local=folder is not None)
        self.name = JudgeName(
            model if folder is None else "local-dir",
            _sha256(file),
            _activation(self._model),
            self.tokenize("").shape[0],
        )

    def tokenize(self, text: str) -> Tensor:
        """Token ids [context], cut off where the context ends."""
        ids: Tensor = self._tokenizer([text])[0]
        return ids

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors [images, width] of RGB images."""
        pixels = torch.stack([self._preprocess(image) for image in images])
        vectors: Tensor = self._model.encode_image(pixels, normalize=True)
        return vectors

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [texts, width]; each text is cut off where the context ends."""
        ids = torch.stack([self.tokenize(text) for text in texts])
        vectors: Tensor = self._model.encode_text(ids, normalize=True)
        return vectors


def _check_architecture(open_clip: ModuleType, model: str) -> None:
    """Raise ConfigurationError for an unknown one, for which open_clip would guess a tokenizer."""
    if ":" in model:
        raise ConfigurationError(
            f"--model-name is {model}: weights are not downloaded; give their file or "
            f"{LOCAL_DIR}FOLDER as --judge"
        )
    if open_clip.get_model_config(model.replace("/", "-")) is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), 3, 0.5)
        hint = f"; like it: {', '.join(near)}" if near else ""
        raise ConfigurationError(f"open_clip has no architecture {model}{hint}")


def _weights_in(folder: Path) -> Path:
    """The file of weights in a folder, by the names that open_clip looks for."""
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(
            f"{folder} has no {_CONFIG}; a judge's folder has it, the weights and the tokenizer"
        )
    for name in _WEIGHTS:
        if (folder / name).is_file():
            check_weights_file(folder / name)
            return folder / name
    raise CheckpointError(f"{folder} has no weights; they are called {' or '.join(_WEIGHTS)}")


def _load(
    open_clip: ModuleType, source: str, file: Path, *, is_local: bool
) -> tuple[Any, Callable[[Image.Image], Tensor]]:
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            source,
            pretrained=None
            if is_local
            else str(file.resolve()),  # a path, never the tag of a download
            precision="fp32",
            device="cpu",
            weights_only=True,
            require_pretrained=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever torch, safetensors or open_clip raise
        raise explained(file, source, error) from None
    return model.eval(), preprocess


def _tokenizer(open_clip: ModuleType, source: str, *, is_local: bool) -> Callable[..., Tensor]:
    try:
        tokenizer: Callable[..., Tensor] = open_clip.get_tokenizer(source)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the judge's tokenizer needs {error.name}; run pip install {error.name}"
        ) from None
    except Exception as error:
        where = (
            f"the folder {source.removeprefix(LOCAL_DIR)} lacks it"
            if is_local
            else f"nothing is downloaded; save it beside the weights and give {LOCAL_DIR}FOLDER"
        )
        reason = f"{error}".strip().partition("\n")[0][:200]
        raise CheckpointError(
            f"the tokenizer of {source} cannot be loaded ({reason}): {where}"
        ) from None
    return tokenizer


def _activation(model: Any) -> str:
    kinds = {type(module).__name__ for module in model.modules()}
    return "QuickGELU" if "QuickGELU" in kinds else "GELU"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
