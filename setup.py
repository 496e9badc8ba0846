"""Packaging of sglang-mezo.

The patches live in the top-level folder `patches`, where reviewers look for them; in a wheel they become
the data of `sglang_mezo_plugin._patches`, where `sglang_mezo_plugin.patch` finds them after an install.
"""

from setuptools import find_packages, setup

setup(
    name="sglang-mezo",
    version="0.1.0",
    description="MeZO fine-tuning inside SGLang: a plugin, and patches against SGLang 0.5.23",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["sglang_mezo_plugin*"]), "sglang_mezo_plugin._patches"],
    package_dir={"sglang_mezo_plugin._patches": "patches"},
    package_data={"sglang_mezo_plugin._patches": ["*.patch"]},
    install_requires=[
        "aiohttp==3.14.5",
        "matplotlib==3.11.2",
        "peft==0.21.2",
        "sglang==0.5.23",
        "tensorboard==2.21.0",
    ],
    extras_require={
        "dev": [
            "pytest==9.2.0",
            "pytest-timeout==2.4.0",
            "pytest-xdist==3.8.0",
            "ruff==0.17.6",
        ],
    },
    entry_points={
        "sglang.srt.plugins": ["mezo = sglang_mezo_plugin.plugin:register"],
        "console_scripts": ["sglang-mezo-patch = sglang_mezo_plugin.patch:main"],
    },
)
