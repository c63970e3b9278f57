"""The C++ kernels, built where there is a compiler. All else is in setup.cfg."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("dyngraph/ops/kernels/native/cpp")


class OptionalBuild(build_ext):
    """A build that may fail: plain PyTorch does what the kernels do, slower."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            print(
                "dyngraph: the C++ kernels were not built, and plain PyTorch takes their place. "
                f"A C++17 compiler makes CPUs several times faster ({error})",
                file=sys.stderr,
            )

    def get_export_symbols(self, ext: Extension) -> list[str]:
        # Not Python's: the library is opened by ctypes.
        return []

    def copy_extensions_to_source(self) -> None:
        built = Path(self.build_lib) / self.get_ext_filename(self.extensions[0].name)
        if built.exists():
            super().copy_extensions_to_source()


setup(
    ext_modules=[
        Extension(
            "dyngraph.ops.kernels.native._kernels",
            sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            language="c++",
            # Loops over registers are unrolled in the code; -O3 takes twice the time to compile.
            extra_compile_args=[
                "-std=c++17",
                "-O2",
                "-g0",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
            ],
            # Of no Python version in particular.
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": OptionalBuild},
)
