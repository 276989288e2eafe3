"""What setup.cfg cannot say: an installed codi_tf carries configs/ and assets/ in codi_tf/starter/, for `codi init`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStarter(build_py):
    """Copies the folders into what is built; an installation with -e uses those of the checkout."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for name in ("configs", "assets"):
            target = Path(self.build_lib, "codi_tf", "starter", name)
            shutil.rmtree(target, ignore_errors=True)  # an earlier build's files
            shutil.copytree(name, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


setup(cmdclass={"build_py": BuildWithStarter})
