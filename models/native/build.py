"""Compiles the C beside this file: each library once for each instruction set, so that one wheel serves every CPU of a kind.

Called while the package is installed (`hatch_build.py`), so it needs nothing but Python. To build again: `python -m models.native.build`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
BUILT = FOLDER / "built"
# No errno and no traps from arithmetic: nobody asks for either, and loops with a square root or a comparison become vectors.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-pthread")


@dataclass(frozen=True)
class Library:
    """What one C file is compiled to; it includes the others that it needs."""

    source: str
    flags: tuple[str, ...] = ()


LIBRARIES: Mapping[str, Library] = {
    "conv4-float32": Library("conv4.c"),
    "conv4-float64": Library("conv4.c", ("-DREAL=double", "-DREAL_IS_DOUBLE")),
    "packing": Library("packing.c", ("-ffp-contract=off",)),
}


@dataclass(frozen=True)
class InstructionSet:
    """Vectors of so many bytes; `capability` is what torch calls a CPU that has them, None for every CPU of the architecture."""

    name: str
    vector_bytes: int
    flags: tuple[str, ...] = ()
    capability: str | None = None


AVX512 = InstructionSet("avx512", 64, ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"), "AVX512")
AVX2 = InstructionSet("avx2", 32, ("-mavx2", "-mfma"), "AVX2")
PLAIN = InstructionSet("plain", 16)


def list_instruction_sets(machine: str = "") -> tuple[InstructionSet, ...]:
    """Those that a machine's CPUs may have, the widest first."""
    return (AVX512, AVX2) if (machine or platform.machine()).lower() in ("x86_64", "amd64") else (PLAIN,)


def library_path(instructions: InstructionSet, name: str) -> Path:
    """Where one of LIBRARIES lies, if it was built."""
    return BUILT / file_name(instructions, name)


def file_name(instructions: InstructionSet, name: str) -> str:
    """What a library's file is called."""
    return f"{name}-{instructions.name}.so"


def find_compiler() -> str | None:
    """The C compiler of `CC`, or the usual one."""
    return shutil.which(os.environ.get("CC") or "cc")


def build_libraries() -> list[Path]:
    """All libraries of this machine's architecture, made anew; none without a compiler. Raises CalledProcessError where it fails."""
    return compile_libraries(FOLDER, BUILT, LIBRARIES, list_instruction_sets())


def compile_libraries(folder: Path, built: Path, libraries: Mapping[str, Library], sets: Sequence[InstructionSet]) -> list[Path]:
    """The same of the libraries of any folder: each once for each of the instruction sets."""
    compiler = find_compiler()
    if compiler is None:
        return []
    built.mkdir(exist_ok=True)
    wanted = [(instructions, name, library) for instructions in sets for name, library in libraries.items()]
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda each: _compile([compiler, *_list_arguments(folder, each[0], each[2])], built, *each[:2]), wanted))


def _list_arguments(folder: Path, instructions: InstructionSet, library: Library) -> list[str]:
    flags = [*FLAGS, *instructions.flags, f"-DVECTOR_BYTES={instructions.vector_bytes}", *library.flags]
    return [*flags, str(folder / library.source), "-lm"]


def _compile(command: list[str], built: Path, instructions: InstructionSet, name: str) -> Path:
    """Written beside and moved into place: a process that has the old library open keeps it."""
    target = built / file_name(instructions, name)
    unfinished = target.with_suffix(f".{os.getpid()}.tmp")
    subprocess.run([*command, "-o", str(unfinished)], check=True, capture_output=True, text=True)  # noqa: S603 (our own arguments)
    return unfinished.replace(target)


if __name__ == "__main__":
    made = build_libraries()
    sys.stdout.write("\n".join(map(str, made)) + "\n" if made else "no C compiler was found: nothing was built\n")
