"""Builds the wheel: the library by cargo, from the workspace around this directory, and the tag from what it needs.

    pip wheel --no-deps ./python

A source distribution has the workspace in it, below `workspace`, as far as the library is built from it.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
COPY = HERE / "workspace"
WORKSPACE = COPY if COPY.exists() else HERE.parent
LICENCES = ["LICENSE-APACHE", "LICENSE-MIT"]
# What cargo wants to see of the workspace to build the library.
SOURCES = ["Cargo.toml", "Cargo.lock", "build.rs", "rustfmt.toml", "src", "docs", "bench", "models", "preload", "sqlite-ext", "tests/support", "tool", *LICENCES]

# A package's licence files lie below its own directory.
for licence in LICENCES:
    shutil.copyfile(WORKSPACE / licence, HERE / licence)


def version():
    """The workspace's version: the wheel is of one version with the library in it."""
    text = (WORKSPACE / "Cargo.toml").read_text()
    found = re.search(r'\[workspace\.package\][^\[]*?^version = "([^"]+)"', text, re.MULTILINE | re.DOTALL)
    return found.group(1)


def library():
    """The library, built in the profile `release`."""
    command = ["cargo", "build", "--release", "--locked", "-p", "pwal-sqlite-ext"]
    subprocess.run(command, cwd=WORKSPACE, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return WORKSPACE / target / "release" / "libpwal.so"


class WithLibrary(build_py):
    def run(self):
        # What an older build left would go into the wheel.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        package = Path(self.build_lib) / "pwal"
        package.mkdir(parents=True, exist_ok=True)
        copy = package / "libpwal.so"
        shutil.copyfile(library(), copy)
        copy.chmod(0o755)
        # The line tables are four fifths of the file.
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-debug", str(copy)], check=True)


class WithWorkspace(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for name in SOURCES:
            source, copy = WORKSPACE / name, Path(base_dir) / "workspace" / name
            if source.is_dir():
                shutil.copytree(source, copy)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)


class WithBinary(Distribution):
    def has_ext_modules(self):
        return True


class ForThisPlatform(bdist_wheel):
    def get_tag(self):
        """Any Python 3: no extension module. The C library: as new as the newest symbol that the library asks for."""
        copy = Path(self.get_finalized_command("build_py").build_lib) / "pwal" / "libpwal.so"
        found = re.findall(rb"GLIBC_2\.(\d+)\0", copy.read_bytes())
        machine = platform.machine()
        return ("py3", "none", f"manylinux_2_{max(map(int, found))}_{machine}" if found else f"linux_{machine}")


setup(
    version=version(),
    distclass=WithBinary,
    cmdclass={"build_py": WithLibrary, "bdist_wheel": ForThisPlatform, "sdist": WithWorkspace},
)
