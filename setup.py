"""All that the package is stands in pyproject.toml; this puts the project's configs/ into it, as cifar_small/configs/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Also copies configs/, which an editable installation reads where it lies."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib) / "cifar_small" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
