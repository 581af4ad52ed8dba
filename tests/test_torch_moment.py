"""The PyTorch QD-DETR that our training step is measured against computes what the official code computes."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

BENCHMARKS = str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
GOLDENS = ("qd_detr_32_maskfixed", "qd_detr_32_fullmask")  # both free of the official code's mask error
LAYERS = ("", "_0")

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")
sys.path.insert(0, BENCHMARKS)
torch_moment = importlib.import_module("torch_moment")
sys.path.remove(BENCHMARKS)


@pytest.fixture(params=GOLDENS)
def golden(request, shared_data):
    """Parameters, inputs, targets and what the official code made of them."""
    folder = shared_data.parent / "golden" / "moment"
    arrays = dict(np.load(folder / f"{request.param}.npz", allow_pickle=False))
    return arrays, json.loads((folder / f"{request.param}.json").read_text())


def under(arrays, prefix):
    """The arrays of that prefix as tensors; float16 was only how they are stored."""
    found = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    return {n: torch.from_numpy(v.astype(np.float32) if v.dtype == np.float16 else v) for n, v in found.items()}


@pytest.mark.parametrize("lean", [False, True])
def test_outputs_losses_and_gradients(golden, lean):
    arrays, numbers = golden
    state, inputs = under(arrays, "param/"), under(arrays, "in/")
    model = torch_moment.QDDETR(
        visual_dim=inputs["src_vid"].shape[-1], text_dim=inputs["src_txt"].shape[-1], width=32, heads=4, wide=48,
        queries=5, dropout=0.0, input_dropout=0.0, lean=lean,
    )  # fmt: skip
    model.load_state_dict(state, strict=True)
    outputs = model(**inputs)
    close = lambda found, wanted: torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
    for name, wanted in under(arrays, "out/").items():
        prefix, _, key = name.rpartition("/")
        close((outputs["aux_outputs"][0] if prefix else outputs)[key], wanted)

    wanted = under(arrays, "tgt/")
    spans = [wanted.pop(f"spans_{row}") for row in range(len(inputs["src_vid"]))]
    for prefix, layer in (("match/", outputs), ("match/aux0/", outputs["aux_outputs"][0])):
        for row, pair in enumerate(torch_moment.match(layer, spans)):
            for side, index in zip(("pred", "tgt"), pair, strict=True):
                assert index.tolist() == arrays[f"{prefix}{side}_{row}"].tolist()
    losses = torch_moment.losses(outputs, wanted | {"spans": spans})
    names = {name for name in numbers["losses"] if not name.startswith("class_error")}
    assert set(losses) == names == set(numbers["weight_dict"])
    for name in names:
        np.testing.assert_allclose(losses[name].item(), numbers["losses"][name], rtol=1e-5)
    total = torch_moment.total(losses)
    np.testing.assert_allclose(total.item(), numbers["total"], rtol=1e-5)

    total.backward()
    norms = {name: p.grad if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}
    assert set(norms) == set(numbers["grad_norms"])
    for name, norm in numbers["grad_norms"].items():
        if norm is None:
            assert norms[name] is None
        else:
            np.testing.assert_allclose(norms[name], norm, rtol=1e-3, atol=1e-6, err_msg=name)
    whole = np.sqrt(sum(norm**2 for norm in norms.values() if norm is not None))
    np.testing.assert_allclose(whole, numbers["grad_total_norm"], rtol=1e-4)


def test_size_and_first_parameters():
    model = torch_moment.QDDETR()
    assert not any(p.abs().any() for p in model.transformer.decoder.bbox_embed.layers[-1].parameters())
    assert [p.item() for n, p in model.named_parameters() if n.endswith("activation.weight")] == [0.25] * 6
    assert model.input_vid_proj[0].net[1].weight.shape == (256, 2818)
