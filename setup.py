"""The packages, which pyproject.toml cannot list by itself: those in src/, and two folders at the top as two more."""

from setuptools import find_namespace_packages, setup

recipes = find_namespace_packages("recipes", exclude=["*__pycache__*"])  # its folders of presets
setup(
    packages=[
        *find_namespace_packages("src", exclude=["*__pycache__*"]),
        *("hwzoo.model_cards", "hwzoo.recipes", *(f"hwzoo.recipes.{name}" for name in recipes)),
    ]
)
