"""The judge: open_clip as it is, its weights looked at first, in float32."""

import hashlib
import io
import json
import math
import sys
import zipfile
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from glm4v.errors import CheckpointError, ConfigurationError
from precision.judge.clip import Judge
from precision.judge.library import load_open_clip
from precision.judge.preprocessing import check_preprocessing
from precision.scoring import score_files
from tests.unit.precision.conftest import SmallJudge


@pytest.fixture(scope="module")
def judge(small_judge: SmallJudge) -> Judge:
    return Judge(str(small_judge.weights), small_judge.model)


def test_vectors_are_those_of_open_clip(
    judge: Judge, small_judge: SmallJudge, open_clip: ModuleType, images: Path
) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(
        small_judge.model, pretrained=str(small_judge.weights)
    )
    image = Image.open(images / "0.png").convert("RGB")
    with torch.no_grad():
        pixels = model.eval().encode_image(preprocess(image)[None])[0]
        text = model.encode_text(open_clip.tokenize(["a cat"]))[0]
    torch.testing.assert_close(judge.encode_images([image])[0], pixels / pixels.norm())
    torch.testing.assert_close(judge.encode_texts(["a cat"])[0], text / text.norm())


def test_the_judge_is_known_by_its_weights(judge: Judge, small_judge: SmallJudge) -> None:
    assert judge.name.weights_sha256 == hashlib.sha256(small_judge.weights.read_bytes()).hexdigest()
    assert judge.name.model == "small-judge"
    assert (judge.name.activation, judge.name.context_tokens) == ("GELU", 77)


def test_half_weights_are_judged_in_float32(small_judge: SmallJudge, tmp_path: Path) -> None:
    half = tmp_path / "half.bin"
    weights = torch.load(small_judge.weights, weights_only=True)
    torch.save({name: each.half() for name, each in weights.items()}, half)
    assert Judge(str(half), small_judge.model).encode_texts(["a cat"]).dtype == torch.float32


def test_the_activation_is_that_of_the_architecture(
    small_judge: SmallJudge, open_clip: ModuleType, tmp_path: Path
) -> None:
    config = json.loads((small_judge.folder / "open_clip_config.json").read_text())["model_cfg"]
    path = tmp_path / "small-judge-quickgelu.json"
    path.write_text(json.dumps({**config, "quick_gelu": True}))
    open_clip.add_model_config(path)
    named = Judge(str(small_judge.weights), "small-judge-quickgelu")
    assert named.name.activation == "QuickGELU"


def test_a_folder_brings_its_own_preprocessing(judge: Judge, small_judge: SmallJudge) -> None:
    local = Judge(f"local-dir:{small_judge.folder}", "ignored")
    assert local.name.model == "local-dir"
    torch.testing.assert_close(local.encode_texts(["a"]), judge.encode_texts(["a"]))
    image = Image.new("RGB", (32, 32), "red")
    assert not torch.allclose(local.encode_images([image]), judge.encode_images([image]))


class _Module(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def wrong_files(folder: Path, weights: dict[str, Tensor]) -> dict[str, tuple[Path, str]]:
    """Files that are not what their name says, or hold more than weights, and what is said."""

    def saved(name: str, value: Any) -> Path:
        torch.save(value, folder / name)
        return folder / name

    def written(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    one = {"one": torch.zeros(2)}
    save_file(one, folder / "renamed.bin")
    archive = io.BytesIO()
    torch.jit.save(torch.jit.script(_Module()), archive)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("weights.bin", b"")
    whole = (saved("whole.bin", one)).read_bytes()
    return {
        "safetensors": (folder / "renamed.bin", "is a safetensors file by its content"),
        "torch": (saved("renamed.safetensors", one), "is a file of torch.save by its content"),
        "torchscript": (written("openai.pt", archive.getvalue()), "TorchScript archive"),
        "training": (
            saved("training.pt", {"state_dict": one, "args": Namespace(lr=1)}),
            "holds Python objects beside tensors",
        ),
        "key": (saved("key.pt", {"model": weights}), "does not hold the weights of small-judge"),
        "other": (saved("other.pt", one), "--model-name"),
        "zip": (written("packed.bin", packed.getvalue()), "a ZIP archive"),
        "cut off": (written("cut.bin", whole[: len(whole) // 2]), "cut off: download"),
        "lfs": (written("lfs.bin", b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        "page": (written("page.bin", b"\n<!doctype html><html>"), "a web page"),
        "empty": (written("empty.bin", b""), "empty"),
        "text": (written("text.bin", b"not weights at all"), "of no format that is known"),
        "missing": (folder / "missing.bin", "cannot be read (No such file"),
        "folder": (folder, f"local-dir:{folder}"),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of TorchScript
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_file_that_cannot_be_judged_with_is_named(
    small_judge: SmallJudge, tmp_path: Path
) -> None:
    weights = torch.load(small_judge.weights, weights_only=True)
    for path, says in wrong_files(tmp_path, weights).values():
        with pytest.raises(CheckpointError) as caught:
            Judge(str(path), small_judge.model)
        assert says in str(caught.value)
        assert str(path) in str(caught.value)
        assert "weights_only" not in str(caught.value)  # torch advises to turn it off
        assert "\n" not in str(caught.value)


def test_a_checkpoint_with_code_does_not_run_it(small_judge: SmallJudge, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"one": Runs()}, tmp_path / "code.bin")
    with pytest.raises(CheckpointError, match="never loaded"):
        Judge(str(tmp_path / "code.bin"), small_judge.model)
    assert not (tmp_path / "ran").exists()


def test_weights_of_nan_are_not_a_score(small_judge: SmallJudge, tmp_path: Path) -> None:
    weights = torch.load(small_judge.weights, weights_only=True)
    weights["text_projection"] = weights["text_projection"] * math.nan
    torch.save(weights, tmp_path / "nan.bin")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    broken = Judge(str(tmp_path / "nan.bin"), small_judge.model)
    with pytest.raises(CheckpointError, match=r"gives a\.png no score"):
        score_files(broken, {"x": {"a.png": "a"}}, {"a.png": tmp_path / "a.png"}, in_parts=False)


def test_an_architecture_is_looked_up_before_weights_are_loaded(small_judge: SmallJudge) -> None:
    with pytest.raises(ConfigurationError, match=r"no architecture ViT-H14; like it: .*ViT-H-14"):
        Judge(str(small_judge.weights), "ViT-H14")
    with pytest.raises(ConfigurationError, match="weights are not downloaded"):
        Judge(str(small_judge.weights), "hf-hub:laion/some")


def test_a_folder_without_what_a_judge_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no open_clip_config\.json"):
        Judge(f"local-dir:{tmp_path}", "ignored")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weights"):
        Judge(f"local-dir:{tmp_path}", "ignored")


def test_a_tokenizer_is_not_downloaded(small_judge: SmallJudge) -> None:
    with pytest.raises((CheckpointError, ConfigurationError), match="tokenizer"):
        Judge(str(small_judge.weights), "xlm-roberta-base-ViT-B-32")


def test_weights_whose_images_are_prepared_otherwise_are_not_taken_from_a_file(
    open_clip: ModuleType,
) -> None:
    with pytest.raises(ConfigurationError, match="local-dir"):
        check_preprocessing(open_clip, "ViT-H-14-CLIPA")  # ImageNet's means, squeezed
    assert "dfn5b" in check_preprocessing(open_clip, "ViT-H-14-quickgelu")  # squeezed, not cropped
    assert check_preprocessing(open_clip, "ViT-B-32") == ""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "--torch-backend"),
        ("raise ModuleNotFoundError('none', name='torchvision')", r"glm4v-serve\[precision\]"),
    ],
)
def test_a_torchvision_that_does_not_load_is_explained(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("open_clip", "torchvision"):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigurationError, match=says):
        load_open_clip()
    for name in list(sys.modules):  # begun, and given back by monkeypatch
        if name.partition(".")[0] in ("open_clip", "torchvision"):
            del sys.modules[name]
