"""The recipes as the installed package `hwzoo.recipes`; at the top of the repository they are scripts."""
