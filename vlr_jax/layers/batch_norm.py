"""Batch normalisation as `torch.nn.BatchNorm1d` does it, over the rows that are told to count.

Ioffe and Szegedy, ICML 2015. It differs from flax's in one thing: the running variance is the unbiased one, n / (n − 1)
times the biased variance that normalises the batch.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class BatchNorm(nn.Module):
    """`x [N, C]` → `[N, C]`, each channel by the statistics of the batch in training, else by the running ones.

    Statistics are those of the whole global batch, on however many devices its rows lie.

    Attributes:
        momentum: weight of a new batch in the running statistics (torch's meaning of the word).
        eps: added to the variance.
        scale_start: first value of the scale; 0 = what is added to something else starts as nothing.
    """

    momentum: float = 0.1
    eps: float = 1e-5
    scale_start: float = 1.0

    @nn.compact
    def __call__(self, x: Array, counts: Array, *, train: bool) -> Array:
        """Args: x: `[N, C]`. counts: bool `[N]`, the rows that enter the statistics; all rows are normalised."""
        channels, dtype = x.shape[-1:], jnp.promote_types(x.dtype, jnp.float32)
        scale = self.param("scale", nn.initializers.constant(self.scale_start), channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        y = x.astype(dtype)
        if train:
            n = jnp.maximum(jnp.sum(counts, dtype=dtype), 1)
            counted = counts[:, None]
            mean = jnp.sum(jnp.where(counted, y, 0), axis=0) / n
            var = jnp.sum(jnp.where(counted, jnp.square(y - mean), 0), axis=0) / n
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * (n / jnp.maximum(n - 1, 1))
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    running.value = (1 - self.momentum) * running.value + self.momentum * new
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale / jnp.sqrt(var + self.eps)
        return (y * factor + (bias - mean * factor)).astype(x.dtype)
