"""Device backends; the CPU is the reference all others are compared with."""

from glm4v.device.base import Attention, AttentionSegment, Device

__all__ = ["Attention", "AttentionSegment", "Device"]
