"""The packages, which pyproject.toml cannot list by itself: those in src/, and two folders at the top as two more."""

from setuptools import find_packages, setup

setup(packages=[*find_packages("src"), "hwzoo.recipes", "hwzoo.model_cards"])
