"""Vision-language retrieval in JAX/Flax: image-text, text-video and video moment retrieval.

The pieces are imported by name (`from vlr_jax import losses`); this file imports nothing,
so that a data worker that needs `vlr_jax.data` does not load jax.
"""

__version__ = "0.1.0"
