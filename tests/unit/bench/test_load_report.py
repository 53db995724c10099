"""The tables of `glm4v bench load` and `glm4v bench products`."""

from pathlib import Path

from bench.geometry import GLM_4V_9B
from bench.load import Reading, Start, weight_ranges
from bench.load_command import Round, report
from bench.products import Rate, table
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tensor_place import TensorPlace

MIB = 2**20


def test_ratios_are_those_within_rounds() -> None:
    def start(ready: float, held: int) -> Start:
        return Start(1.0, ready, (held + 3) * MIB, held * MIB, (held + 50) * MIB)

    rounds = [
        Round(
            Reading(kept, 0.5), {"bfloat16": start(kept * 2, 200), "int8": start(kept, held)}, 0.0
        )
        for kept, held in ((2.0, 100), (4.0, 110), (9.0, 120))
    ]
    lines = report(rounds, 2_000_000_000).splitlines()
    assert lines[0] == (
        "2.00 GB; read into memory that is kept in 4.00 s, into one buffer in 0.50 s"
    )
    ready = "| bfloat16 | 8.00 | 1.00 | 7.00 | 2.00 (2.00 to 2.00) | 1.75 (1.50 to 1.89) |"
    assert lines[4] == ready
    assert lines[9:] == [
        "| bfloat16 | 200 | 1.00 (1.00 to 1.00) | 203 | 250 |",
        "| int8 | 110 | 0.55 (0.50 to 0.60) | 113 | 160 |",
    ]


def test_a_worker_reads_its_own_tensors(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"

    def place(start: int, end: int) -> TensorPlace:
        return TensorPlace(file, "BF16", ((end - start) // 2,), start, end)

    tensors = {
        "transformer.output_layer.weight": place(30, 40),
        "transformer.encoder.final_layernorm.weight": place(8, 20),
        "transformer.vision.boi": place(20, 30),
        "transformer.embedding.word_embeddings.weight": place(40, 60),
    }
    checkpoint = Checkpoint(tmp_path, GLM_4V_9B, tensors, "")
    assert weight_ranges(checkpoint, vision=False) == [(file, 8, 20), (file, 30, 60)]
    assert weight_ranges(checkpoint, vision=True) == [(file, 20, 30)]


def test_products_are_shown_beside_each_other() -> None:
    rates = [Rate("native", 4, bits, 1e9 * rate) for bits, rate in ((8, 30), (16, 20), (32, 10))]
    assert table(rates).splitlines()[-1] == "| native | 4 | 30.00 | 20.00 | 10.00 | 1.50 |"
