"""The dynamic tables of ELF files: what a library needs, and what it defines."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

_DYNAMIC, _DYNSYM = 6, 11  # section types
_NEEDED = 1  # a tag of the dynamic section
_GLOBAL = 1  # a binding of a symbol; a weak one may stay unbound


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


@dataclass
class Elf:
    """One 64-bit little-endian library."""

    needed: list[str] = field(default_factory=list)  # names of libraries
    defined: set[str] = field(default_factory=set)  # symbols
    undefined: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "Elf":
        """The tables of the file; raises ValueError for other kinds of files."""
        data = path.read_bytes()
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is not a 64-bit little-endian ELF file")
        sections = _sections(data)
        elf = cls()
        for section in sections:
            strings = sections[section.link].offset
            table = data[section.offset : section.offset + section.size]
            if section.kind == _DYNAMIC:
                for tag, value in struct.iter_unpack("<QQ", table):
                    if tag == _NEEDED:
                        elf.needed.append(_text(data, strings + value))
            elif section.kind == _DYNSYM:
                elf._read_symbols(data, strings, table)
        return elf

    def _read_symbols(self, data: bytes, strings: int, table: bytes) -> None:
        for name, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", table):
            if not name:
                continue
            if section:
                self.defined.add(_text(data, strings + name))
            elif info >> 4 == _GLOBAL:
                self.undefined.add(_text(data, strings + name))


def _sections(data: bytes) -> list[_Section]:
    (offset,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = []
    for number in range(count):
        head = struct.unpack_from("<IIQQQQIIQQ", data, offset + number * size)
        sections.append(_Section(head[1], head[4], head[5], head[6]))
    return sections


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
