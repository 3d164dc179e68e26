"""The long description: README.md, with links that work on PyPI too."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
start = f"]({project['urls']['Repository']}/blob/main/"
setup(
    long_description=re.sub(r"\]\((?!https?:|#)", start, (HERE / "README.md").read_text()),
    long_description_content_type="text/markdown",
)
