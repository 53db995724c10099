"""Who drew the things: packages of the npm registry, each pinned, each under a free licence."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vendor:
    """A package of drawings of things."""

    name: str
    package: str
    integrity: str  # as the registry states it: sha512, base64
    licence: str
    folder: str = ""  # where its pictures of 64x64 are, RGBA; else it has icons.json, of SVG bodies


_VENDORS = (
    Vendor(
        "google",
        "emoji-datasource-google@16.0.0",
        "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        "Noto Emoji, Apache-2.0",
        "package/img/google/64",
    ),
    Vendor(
        "twitter",
        "emoji-datasource-twitter@16.0.0",
        "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        "Twemoji, CC-BY 4.0, (c) Twitter, Inc. and other contributors",
        "package/img/twitter/64",
    ),
    Vendor(
        "fluent",
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "Fluent Emoji, MIT, (c) Microsoft Corporation",
    ),
    Vendor(
        "noto_v1",
        "@iconify-json/noto-v1@1.2.5",
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Noto Emoji as it was before 2017, Apache-2.0",
    ),
    Vendor(
        "emojitwo",
        "@iconify-json/emojione@1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        "EmojiTwo, CC-BY 4.0",
    ),
)
VENDORS = {vendor.name: vendor for vendor in _VENDORS}
