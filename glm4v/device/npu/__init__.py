"""Ascend NPUs: Atlas 800I A2 (910B) and Atlas 300I Duo (310P).

The only code that knows `torch_npu`. docs/ascend.md says what of it was proven, and how.
"""
