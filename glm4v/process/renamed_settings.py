"""Settings that had another name in an earlier release: a process refuses them with the new one."""

# Both without the prefix. A name may leave this table when nobody can still have it.
RENAMED = {
    "CACHE_BYTES": "KV_CACHE_BYTES",
    "CORE_TURNS": "CPU_ARBITER",
    "DRAIN_S": "DRAIN_TIMEOUT_S",
    "MAX_SEQUENCES": "MAX_NUM_SEQS",
    "MESSAGE_S": "RECEIVE_TIMEOUT_S",
    "RETENTION_S": "RESULT_TTL_S",
    "SILENCE_S": "STREAM_KEEPALIVE_S",
    "STEP_STRETCH": "PREFILL_SLOWDOWN",
    "STEP_TOKENS": "MAX_BATCHED_TOKENS",
}
# Values of settings that had another name.
RENAMED_VALUES = {
    ("DTYPE", "weights16"): "GLM4V_DTYPE=float32 with GLM4V_WEIGHT_DTYPE=bfloat16",
}
# What users of other servers write.
SYNONYMS = {"ADDRESS": "LISTEN", "BIND": "LISTEN", "HOST": "LISTEN", "PORT": "LISTEN"}
