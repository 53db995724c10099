"""L3: what only a real NPU can show; `deploy/npu-check` runs it and writes one report."""
