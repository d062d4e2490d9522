"""Nodes of ComfyUI for exp_jax.

They talk over HTTP to `exp-jax serve`, so that JAX and ComfyUI's torch never meet in one process.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ['NODE_CLASS_MAPPINGS', 'NODE_DISPLAY_NAME_MAPPINGS']
