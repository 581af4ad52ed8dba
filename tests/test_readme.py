"""What README.md and docs/methods.md show is what runs, and nothing is left out of them."""

import importlib.util
import pathlib
import re
import runpy

import numpy as np
import pytest

from vlr_jax import config, losses, optim, relevance
from vlr_jax.resolve import choices, resolve
from vlr_jax.terms import Terms

REPO = pathlib.Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
METHODS = (REPO / "docs" / "methods.md").read_text()


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_loop_of_the_readme_learns(capsys):
    (loop,) = (block for block in blocks(README) if "optax" in block)
    names = {}
    exec(compile(loop, "README.md", "exec"), names)
    assert names["scores"].shape == (32, 64) and float(names["value"]) < 0.2
    assert re.fullmatch(r"loss 0\.\d+, NDCG@10 [\d.]+\n", capsys.readouterr().out)


@pytest.mark.parametrize("block", blocks(METHODS))
def test_configs_of_the_methods(block):
    """Put into a shipped config, which they say they change; files that they name are not looked for."""
    c = runpy.run_path(str(REPO / "configs" / "vse_infty_flickr30k.py"))["get_config"]("smoke")
    c.relevance = dict(name="identity")
    exec(block, {"c": c})
    plan = config.complete(c)
    assert Terms(plan["losses"], plan["relevance"]).terms
    fields = plan["model"]
    assert fields.keys() <= {*resolve("models", fields["name"]).__dataclass_fields__}
    for entry in plan["init"]:
        assert callable(resolve("pretrained", entry["name"]))
    optim.make(plan["optim"], {"bert": {"places": np.zeros(2)}}, steps=4, steps_per_epoch=2)


def test_methods_have_every_loss_and_relevance():
    for name in choices("losses"):
        assert f"\n### {name}\n" in METHODS and f"(#{name})" in METHODS, name
    for name in relevance.choices():
        assert f"\n| `{name}` " in METHODS, name
    assert all(f"`losses.{name}`" in METHODS for name in set(losses.__all__) - set(choices("losses")))


def test_every_loss_has_its_panel():
    spec = importlib.util.spec_from_file_location("plot_losses", REPO / "docs" / "plot_losses.py")
    plot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plot)
    assert set(plot.PANELS) == set(losses.__all__) - plot.BESIDE
    assert (REPO / "docs" / "losses.png").stat().st_size < 300_000
