"""A checkpoint that cannot be served is one clear line, naming the file and the tensor."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.file_matrix import OpenFile
from glm4v.checkpoint.tensor_place import read_header
from glm4v.checkpoint.tensor_reading import read_tensor
from glm4v.checkpoint.tiny import write_tiny
from glm4v.checkpoint.weights import Weights
from glm4v.errors import CheckpointError

WORDS = "transformer.embedding.word_embeddings.weight"
HEAD = "transformer.output_layer.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    write_tiny(tmp_path / "model")
    return tmp_path / "model"


def shard_of(folder: Path, tensor: str) -> Path:
    """The file a tensor lies in."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][tensor])


def change_shard(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Load a shard, change its tensors, write it again."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def change_config(folder: Path, **fields: Any) -> None:
    """Set fields of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def refusal(folder: Path) -> str:
    """The one line a checkpoint is refused with."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_whole_checkpoint_opens_and_tensors_are_read_in_slices(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    weights = Weights(checkpoint, torch.float32, torch.device("cpu"))
    whole = weights.read(HEAD)
    parts = weights.read(HEAD, rows=[(2, 5), (9, 10)], columns=(1, 4))
    assert torch.equal(parts, torch.cat([whole[2:5, 1:4], whole[9:10, 1:4]]))
    assert whole.dtype == torch.float32


def test_parts_are_those_of_the_tensor_in_any_dtype(tmp_path: Path) -> None:
    tensors = {
        "bf16": torch.randn(7, 5).bfloat16(),
        "f16": torch.randn(4, 3, 2, 2).half(),
        "f32": torch.randn(6),
        "i8": torch.randint(-128, 128, (5, 9), dtype=torch.int8),
        "u8": torch.randint(0, 256, (2, 3), dtype=torch.uint8),
        "i32": torch.randint(-(2**31), 2**31, (3, 3), dtype=torch.int32),
        "i64": torch.tensor([3, -(2**62)]),
        "empty": torch.empty(0),
        "number": torch.tensor(0.5),
    }
    save_file(tensors, tmp_path / "f.safetensors")
    places = read_header(tmp_path / "f.safetensors")
    file = OpenFile(tmp_path / "f.safetensors")
    for name, tensor in tensors.items():
        wheres: list[tuple[slice, ...]] = [()]
        if tensor.dim():
            wheres += [(slice(1, 3),), (slice(0, 1),), (slice(None),), (slice(2, 2),)]
        if tensor.dim() == 2:
            wheres += [(slice(1, 3), slice(1, 2)), (slice(None), slice(0, 2)), (slice(2), slice(3))]
        for where in wheres:
            found = read_tensor(file, places[name], where)
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor[where])


def test_a_file_that_gets_shorter_while_it_is_read_is_an_error(folder: Path) -> None:
    """Were it mapped, the kernel would end the process with SIGBUS."""
    weights = Weights(Checkpoint.open(folder), torch.bfloat16, torch.device("cpu"))
    held = weights.read(HEAD)
    before = held.clone()
    os.truncate(shard_of(folder, HEAD), 4096)
    assert torch.equal(held, before)  # also where no other dtype made a copy of it
    with pytest.raises(CheckpointError, match="cannot be read: the file is truncated"):
        weights.read(HEAD)


def test_a_folder_whose_name_is_no_text_gives_a_name_that_can_be_sent(folder: Path) -> None:
    odd = folder.rename(folder.with_name(os.fsdecode(b"caf\xe9")))
    assert Checkpoint.open(odd).name == "caf\ufffd"


def test_a_missing_tensor_is_named_with_its_file(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    change_shard(file, lambda tensors: tensors.pop(WORDS))
    line = refusal(folder)
    assert file.name in line
    assert WORDS in line
    assert "missing" in line


def test_a_surplus_tensor_is_named_with_its_file(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    change_shard(file, lambda tensors: tensors.update({"lora.weight": torch.zeros(1)}))
    line = refusal(folder)
    assert file.name in line
    assert "lora.weight" in line


def test_a_misshapen_tensor_is_named_with_both_shapes(folder: Path) -> None:
    file = shard_of(folder, HEAD)
    change_shard(file, lambda tensors: tensors.update({HEAD: torch.zeros(3, 5)}))
    line = refusal(folder)
    for part in (file.name, HEAD, "[3, 5]", "[320, 64]"):
        assert part in line


def test_a_truncated_shard_is_named_with_the_tensor_that_is_cut(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    file.write_bytes(file.read_bytes()[:-7])
    line = refusal(folder)
    assert file.name in line
    assert "truncated" in line
    assert "transformer." in line


def test_a_shard_without_a_whole_header_is_truncated(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    for size in (0, 5, 40):
        file.write_bytes(file.read_bytes()[:size])
        assert f"{file.name}: truncated" in refusal(folder)


def test_a_shard_that_is_something_else_says_so(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    file.write_bytes((20).to_bytes(8, "little") + b"x" * 100)
    assert f"{file.name}: not a safetensors file" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    file = shard_of(folder, WORDS)
    file.unlink()
    line = refusal(folder)
    assert file.name in line
    assert "no such file" in line


def test_an_index_cannot_lead_out_of_the_folder(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][WORDS] = "../secret"
    path.write_text(json.dumps(index))
    assert "not a plain name" in refusal(folder)


def test_the_other_glm4v_is_refused_by_name(folder: Path) -> None:
    change_config(folder, model_type="glm4v", architectures=["Glm4vForConditionalGeneration"])
    assert "GLM-4.1V" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"vision_config": None}, "text-only"),
        ({"post_layer_norm": False}, "post_layer_norm"),
        ({"num_layers": None}, "num_layers"),
        ({"hidden_size": "wide"}, "wide"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": float("inf")}, "infinity"),
        ({"eos_token_id": "end"}, "end"),
        ({"boi_token_id": 3}, "boi_token_id"),
        ({"num_layers": 3}, "encoder.layers.2"),
    ],
)
def test_a_configuration_that_does_not_fit_names_the_field(
    folder: Path, fields: dict[str, Any], named: str
) -> None:
    change_config(folder, **fields)
    assert named in refusal(folder)


def test_a_folder_without_a_checkpoint_says_what_is_missing(tmp_path: Path) -> None:
    assert "config.json" in refusal(tmp_path)
    assert "no such directory" in refusal(tmp_path / "nowhere")


def test_other_weights_have_another_fingerprint(folder: Path) -> None:
    before = Checkpoint.open(folder).fingerprint
    assert Checkpoint.open(folder).fingerprint == before
    change_shard(shard_of(folder, HEAD), lambda tensors: tensors[HEAD].mul_(1.5))
    assert Checkpoint.open(folder).fingerprint != before


def write_single(folder: Path, scale: float = 1.0) -> Path:
    """All tensors in one file beside what was there, as `save_pretrained` leaves it."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model-*.safetensors")):
        tensors |= load_file(file)
    tensors[HEAD] = tensors[HEAD] * scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    "architectures",
    [["ChatGLMModel"], ["ChatGLMForConditionalGeneration"], ["GLM4VForCausalLM"], [], None],
)
def test_every_name_that_tools_write_is_taken(folder: Path, architectures: Any) -> None:
    before = Checkpoint.open(folder).fingerprint
    change_config(folder, architectures=architectures, torch_dtype=None, dtype="bfloat16")
    assert Checkpoint.open(folder).fingerprint == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architectures": ["Glm4vForConditionalGeneration"]}, "GLM-4.1V"),
        ({"architectures": ["ChatGLMForSequenceClassification"]}, "SequenceClassification"),
        ({"architectures": "ChatGLMModel"}, "a list is needed"),
        (
            {"architectures": ["ChatGLMForConditionalGeneration"], "vision_config": None},
            "text-only ChatGLM",
        ),
    ],
)
def test_other_models_are_refused_by_name(folder: Path, fields: dict[str, Any], said: str) -> None:
    change_config(folder, **fields)
    assert said in refusal(folder)


def test_a_single_file_comes_before_an_index(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in transformers 4.48.3 (`from_pretrained`): the shards are those of another model."""
    old = Checkpoint.open(folder)
    single = write_single(folder, scale=2.0)
    opened = Checkpoint.open(folder)
    weights, before = (Weights(c, torch.float32, torch.device("cpu")) for c in (opened, old))
    assert torch.equal(weights.read(HEAD), 2 * before.read(HEAD))
    assert opened.fingerprint != old.fingerprint
    assert caplog.messages == [f"{single} is read; model.safetensors.index.json beside it is not"]
    for shard in folder.glob("model-*.safetensors"):  # and where they are gone
        shard.unlink()
    assert Checkpoint.open(folder).fingerprint == opened.fingerprint


def test_other_files_are_left_alone(folder: Path) -> None:
    before = Checkpoint.open(folder).fingerprint
    save_file({"lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "consolidated.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "model-00009-of-00009.safetensors")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "gone.bin"}}')
    (folder / "model.safetensors.index.fp16.json").write_text("{}")
    for name in ("optimizer.pt", "adapter_config.json", "tokenizer.json", "training_args.bin"):
        (folder / name).write_bytes(b"{}")
    assert Checkpoint.open(folder).fingerprint == before


def test_an_adapter_alone_says_that_it_has_to_be_merged(tmp_path: Path, folder: Path) -> None:
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    for place in (tmp_path, folder):  # peft leaves no config.json, some trainers do
        (place / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        save_file({"lora_A.weight": torch.zeros(2, 2)}, place / "adapter_model.safetensors")
        line = refusal(place)
        assert "merge it into the model it was trained on" in line


def test_missing_weights_say_what_is_there_instead(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert "copy the model.safetensors.index.json that belongs to them" in refusal(folder)
    for file in folder.glob("model-*.safetensors"):
        file.unlink()
    assert "no model.safetensors either" in refusal(folder)
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"pickled")
    assert "safe_serialization=True" in refusal(folder)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model-00001-of-*.safetensors",
        "model.safetensors",
    ],
)
def test_a_git_lfs_pointer_says_so(folder: Path, name: str) -> None:
    name = next((file.name for file in folder.glob(name)), name)
    (folder / name).write_bytes(LFS_POINTER)
    line = refusal(folder)
    assert f"{name}: a Git LFS pointer" in line
    assert "git lfs pull" in line


def test_end_tokens_are_those_of_the_generation_configuration(folder: Path) -> None:
    """`generate()` of transformers 4.48.3 takes them from there, and there alone."""
    path = folder / "generation_config.json"
    change_config(folder, eos_token_id=256)
    path.write_text('{"eos_token_id": [256, 263, 265]}')
    opened = Checkpoint.open(folder)
    assert opened.spec.eos_ids == (256, 263, 265)
    path.write_text('{"eos_token_id": 263}')
    assert Checkpoint.open(folder).spec.eos_ids == (263,)
    assert Checkpoint.open(folder).fingerprint == opened.fingerprint  # the weights are the same
    path.write_text('{"eos_token_id": [263, 100000]}')
    assert f"{path}: eos_token_id [263, 100000] is beyond the 270 tokens" in refusal(folder)
    path.unlink()
    assert Checkpoint.open(folder).spec.eos_ids == (256,)


def test_end_tokens_that_the_generation_configuration_leaves_out_are_the_models(
    folder: Path,
) -> None:
    """Here `generate()` would not end before its longest length."""
    path = folder / "generation_config.json"
    for content in ("{}", '{"eos_token_id": null}', '{"eos_token_id": []}'):
        path.write_text(content)
        assert Checkpoint.open(folder).spec.eos_ids == (256, 263, 265)
    change_config(folder, eos_token_id=None)
    assert "no eos_token_id" in refusal(folder)
    path.write_text('{"eos_token_id": 263}')
    assert Checkpoint.open(folder).spec.eos_ids == (263,)
    path.write_text('{"eos_token_id": 900}')
    assert "eos_token_id" in refusal(folder)


def test_each_part_says_whether_16_bits_hold_it(folder: Path) -> None:
    """`from_pretrained` of transformers 4.48.3 without a dtype, saved: vision in float32."""

    def widen(pick: Callable[[str, torch.Tensor], bool]) -> Checkpoint:
        for file in folder.glob("model-*.safetensors"):
            tensors = load_file(file)
            save_file({n: t.float() if pick(n, t) else t for n, t in tensors.items()}, file)
        return Checkpoint.open(folder)

    norms = widen(lambda name, _: "norm" in name)  # they stay in the dtype of the arithmetic
    assert (norms.is_bfloat16(vision=False), norms.is_bfloat16(vision=True)) == (True, True)
    mixed = widen(lambda name, _: name.startswith("transformer.vision."))
    assert (mixed.is_bfloat16(vision=False), mixed.is_bfloat16(vision=True)) == (True, False)
    full = widen(lambda *_: True)
    assert (full.is_bfloat16(vision=False), full.is_bfloat16(vision=True)) == (False, False)
