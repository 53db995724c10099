"""The fused operators that each chip's model has to run through."""

COMMON = {"npu::npu_rms_norm", "npu::npu_add_rms_norm", "npu::npu_apply_rotary_pos_emb"}
LANGUAGE = {
    "Ascend910B3": COMMON
    | {
        "npu::npu_scatter_pa_kv_cache",
        "npu::npu_fused_infer_attention_score",
        "npu::npu_swiglu",
    },
    "Ascend310P3": COMMON
    | {
        "npu::npu_format_cast",
        "atb::_npu_reshape_and_cache",
        "atb::_npu_paged_attention",
        "atb::_npu_paged_attention_splitfuse_v2",
    },
}
VISION = {
    "Ascend910B3": {"npu::npu_fused_infer_attention_score", "npu::npu_gelu", "npu::npu_swiglu"},
    "Ascend310P3": {"atb::_npu_flash_attention_unpad", "npu::npu_gelu", "npu::npu_format_cast"},
}
# Of captured decode steps, whose lengths are updated for each replay.
REPLAYED = {
    "Ascend910B3": {"npu::npu_fused_infer_attention_score.out"},
    "Ascend310P3": set[str](),
}
