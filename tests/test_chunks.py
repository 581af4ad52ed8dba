"""Blocks of rows: their order, their errors, and what the compiled step of a large batch holds and sends."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax import chunks
from vlr_jax.resolve import choices, resolve
from vlr_jax.terms import Terms

LISTWISE = tuple(name for name in choices("losses") if hasattr(resolve("losses", name), "listwise"))
PAIRWISE = tuple(name for name in choices("losses") if name not in LISTWISE)


def mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
    )


@pytest.mark.parametrize("devices, size", [(1, 4), (4, 8), (8, 8), (8, 16)])
def test_rows_come_back_in_order(devices, size):
    """Each block holds the next rows of every device, and each device's results stay with it."""
    rows = {"x": np.arange(16.0), "y": np.arange(32).reshape(16, 2)}
    with jax.set_mesh(mesh(devices)):
        put = jax.device_put(rows, NamedSharding(mesh(devices), P("data")))
        function = lambda block, index: {"x": block["x"], "index": jnp.full(size, index), "y": 2 * block["y"]}
        found = jax.jit(lambda rows: chunks.over(function, rows, size, "size"))(put)
    np.testing.assert_array_equal(found["x"], rows["x"])
    np.testing.assert_array_equal(found["y"], 2 * rows["y"])
    share, own = size // devices, 16 // devices
    np.testing.assert_array_equal(found["index"], np.arange(16) % own // share)
    assert found["x"].sharding.spec == P("data")


def test_gradients_pass_through():
    with jax.set_mesh(mesh(8)):
        f = lambda x, w: jnp.sum(chunks.over(lambda block, _: jnp.sin(w * block), x, 8, "size"))
        grads = jax.jit(jax.grad(f, (0, 1)))(jnp.arange(16.0), 2.0)
    x = np.arange(16.0)
    np.testing.assert_allclose(grads[0], 2 * np.cos(2 * x), rtol=1e-5)
    assert float(grads[1]) == pytest.approx((x * np.cos(2 * x)).sum(), rel=1e-4)


@pytest.mark.parametrize("size", [3, 4, 32])
def test_size_that_does_not_fit_is_refused_when_traced(size):
    with jax.set_mesh(mesh(8)), pytest.raises(ValueError, match=f"query_chunk is {size}; it must divide .* 16, .* 8 d"):
        jax.eval_shape(lambda x: chunks.over(lambda b, _: b, x, size, "config.query_chunk"), jnp.arange(16.0))


@functools.cache
def compiled(losses, relevance, devices, chunk, size, dim):
    """Forward and backward pass of terms over a batch of encodings, compiled and not run."""
    rows = NamedSharding(mesh(devices), P("data"))
    of = lambda shape, dtype: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=rows)
    batch = {"visual_id": of((), jnp.int32), "valid": of((), bool)}
    batch |= {"visual_facts": of((16,), bool), "text_facts": of((16,), bool)}
    terms = Terms({name: {} for name in losses}, dict(name=relevance), chunk)
    similarity = lambda v, t: {"sim": jnp.einsum("vd,td->vt", v, t)}

    def step(visual, text, batch):
        return terms(similarity, visual, text, batch, step=0)

    with jax.set_mesh(mesh(devices)):
        both = jax.jit(jax.value_and_grad(step, argnums=(0, 1), has_aux=True))
        return both.lower(of((dim,), jnp.float32), of((dim,), jnp.float32), batch).compile()


def arrays(text):
    """(operation, shape) of every array that an HLO text makes, those inside of tuples too."""
    for kinds, operation in re.findall(r"^ *(?:ROOT )?%[\w.\-]+ = (.*?) ([\w\-]+)\(", text, re.MULTILINE):
        for shape in re.findall(r"\w+\[([\d,]*)\]", kinds):
            yield operation, tuple(int(d) for d in shape.split(",") if d)


def largest(text):
    """The number of elements of the largest array."""
    return max(math.prod(shape) for _, shape in arrays(text))


@pytest.mark.parametrize("chunk", [0, 1024])
@pytest.mark.parametrize(
    "loss, relevance",
    [
        ("info_nce", "identity"),
        pytest.param("smooth_ndcg", "identity", marks=pytest.mark.slow),
        pytest.param("kendall", "identity", marks=pytest.mark.slow),
        pytest.param("info_nce", "facts", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_need_a_sixth_of_the_memory(loss, relevance, chunk):
    """Batch 8192, D = 512: peak temporary memory of a device; in chunks no array of B × B / k elements on k devices."""
    size, losses = 8192, (loss,)
    one, eight = (compiled(losses, relevance, devices, chunk, size, 512) for devices in (1, 8))
    memory = [program.memory_analysis().temp_size_in_bytes for program in (one, eight)]
    found = f"{memory[0] / 2**20:.0f} MiB on one device, {memory[1] / 2**20:.0f} on each of 8"
    print(f"\n{loss}, {relevance}, query_chunk {chunk}: {found}")  # for docs/performance.md
    assert memory[0] >= 6 * memory[1], found
    if chunk:
        for program, devices in ((one, 1), (eight, 8)):
            assert largest(program.as_text()) < size * size // devices
        whole = compiled(losses, relevance, 1, 0, size, 512).memory_analysis().temp_size_in_bytes
        assert memory[0] < whole / 4


@pytest.mark.parametrize("chunk", [0, 64])
@pytest.mark.parametrize(
    "losses, relevance", [(PAIRWISE, "identity"), (LISTWISE, "facts")], ids=("pairwise", "listwise")
)
def test_what_eight_devices_send(losses, relevance, chunk):
    """Of arrays as large as a block of scores, all-to-all for those who sort candidates, and nothing else.

    That is: no all-gather, all-reduce or permutation makes an array of as many elements as a block of scores has over
    all devices (B × B, in chunks n × B), monitors and relevance included; the encodings, of D < n, may be gathered.
    Pairwise losses do not even need the all-to-all. In chunks no array has B × B / 8 elements on any of the 8 devices,
    and no all-gather makes B rows: a block's queries are gathered, the candidates stay where they are.
    """
    size = 512
    text = compiled(losses, relevance, 8, chunk, size, 32).as_text()
    sent = re.compile(r"^(all-gather|all-reduce|reduce-scatter|collective-permute)")
    large = [
        operation
        for operation, shape in arrays(text)
        if sent.match(operation) and math.prod(shape) >= (chunk or size) * size
    ]
    assert not large
    assert ("all-to-all" in text) == (losses == LISTWISE)
    if chunk:
        assert largest(text) < size * size // 8
        assert not [s for operation, s in arrays(text) if operation.startswith("all-gather") and s[:1] == (size,)]


def test_one_device_holds_a_block_of_graded_relevance_only():
    """Scores, relevance, what sorts them, and monitors: no array of B × B / 2 elements in chunks of B / 8."""
    assert largest(compiled(LISTWISE, "facts", 1, 64, 512, 32).as_text()) < 512 * 512 // 2
