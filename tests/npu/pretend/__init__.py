"""A pretend Ascend device: the real torch_npu over libraries and a runtime of the tests' own.

    libraries    link-only stand-ins for CANN, made from the ELF tables of the installed wheel
    runtime.c    AscendCL over the memory of this process
    emulation    computes each operator on the CPU, by the references, within the contracts

It proves names, arguments, shapes, devices and our reading of the operators, and no kernel.
"""
