"""Pytrees of tensors, in the one module that names PyTorch's private implementation of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch.utils import _pytree

Structure: TypeAlias = _pytree.TreeSpec


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves and the structure that holds them."""
    leaves, structure = _pytree.tree_flatten(tree)
    return leaves, structure


def unflatten(leaves: list[Any], structure: Structure) -> Any:
    """The tree of this structure with these leaves."""
    return _pytree.tree_unflatten(leaves, structure)


def leaves_of(tree: Any) -> list[Any]:
    """The leaves alone."""
    return list(_pytree.tree_leaves(tree))


def map_leaves(function: Callable[..., Any], *trees: Any) -> Any:
    """A tree of the function's values at the leaves of trees of one structure."""
    return _pytree.tree_map(function, *trees)


def sketch(structure: Structure) -> str:
    """A structure in words: ``{a: tensor, b: (tensor, tensor)}``."""
    return str(unflatten(["tensor"] * structure.num_leaves, structure)).replace("'", "")
