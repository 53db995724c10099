"""The operators in use with their schemas: `python -m tests.npu.schemas PACKAGE_DIR > FILE`.

Read from the libraries of a torch_npu wheel without loading them, so that versions which do not
fit the installed torch can be compared.
"""

import re
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "schemas"
USED = (
    "npu::npu_rms_norm",
    "npu::npu_add_rms_norm",
    "npu::npu_apply_rotary_pos_emb",
    "npu::npu_swiglu",
    "npu::npu_gelu",
    "npu::npu_weight_quant_batchmatmul",
    "npu::npu_scatter_pa_kv_cache",
    "npu::npu_fused_infer_attention_score",
    "npu::npu_fused_infer_attention_score.out",
    "npu::_npu_fused_infer_attention_score_get_max_workspace",
    "npu::npu_format_cast",
    "npu::empty_with_format",
    "npu::npu_change_data_ptr",
    "atb::_npu_reshape_and_cache",
    "atb::_npu_paged_attention",
    "atb::_npu_paged_attention_splitfuse_v2",
    "atb::_npu_flash_attention_unpad",
)

_SCHEMA = re.compile(
    rb"(?<![\w:])((?:npu::|atb::)?_?[a-z]\w*(?:\.\w+)?\([^\0]{0,4000}?\) ?-> ?[^\0]{2,300})\0"
)


def canonical(schema: str, namespace: str) -> str:
    """The schema as torch prints it, whatever blanks and quotes it was written with."""
    named = schema if "::" in schema.partition("(")[0] else f"{namespace}::{schema}"
    return str(torch._C.parse_schema(named.replace("int ?", "int?")))


def read_schemas(package: Path) -> dict[str, str]:
    """Those of the operators in use, by name."""
    found: dict[str, str] = {}
    for library in sorted((package / "lib").glob("*.so")):
        for match in _SCHEMA.finditer(library.read_bytes()):
            text = match.group(1).decode("ascii", "replace")
            found.setdefault(text.partition("(")[0].rpartition("::")[2], text)
    return {
        name: canonical(found[name.rpartition("::")[2]], name.partition("::")[0])
        for name in USED
        if name.rpartition("::")[2] in found
    }


def committed(version: str) -> dict[str, str]:
    """The schemas of a version that this project supports."""
    lines = (FOLDER / f"{version}.txt").read_text().splitlines()
    return {line.partition("(")[0]: line for line in lines}


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in read_schemas(Path(sys.argv[1])).values()))
