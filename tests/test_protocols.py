"""Named protocols: counts are asserted, folds are consecutive visuals with their texts."""

import numpy as np
import pytest

from vlr_jax import protocols


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_protocol_accepts_its_own_counts(name):
    protocol = protocols.PROTOCOLS[name]
    each = np.full(protocol.visuals, protocol.texts_per_visual or 41)
    if protocol.texts_per_visual is None:
        each[0] += protocol.texts - each.sum()
    protocols.check(name, protocol.visuals, protocol.texts, each)
    if protocol.texts_per_visual:
        protocols.check(name, protocol.visuals, protocol.texts, protocol.texts_per_visual)
    text_visual = np.repeat(np.arange(protocol.visuals), each)
    folds = protocols.folds(name, text_visual, protocol.visuals)
    assert len(folds) == protocol.folds
    np.testing.assert_array_equal(np.concatenate([v for v, _ in folds]), np.arange(protocol.visuals))
    np.testing.assert_array_equal(np.concatenate([t for _, t in folds]), np.arange(protocol.texts))


def test_five_folds_of_a_thousand():
    folds = protocols.folds("coco-1k-5fold", np.arange(25000) // 5, 5000)
    assert [(len(v), len(t)) for v, t in folds] == [(1000, 5000)] * 5
    assert folds[2][0][0] == 2000 and folds[2][1][0] == 10000


@pytest.mark.parametrize("name", [None, "none"])
def test_no_protocol_asserts_nothing(name):
    protocols.check(name, 3, 7, np.array([1, 2, 4]))
    ((visuals, texts),) = protocols.folds(name, np.array([2, 0, 1]), 3)
    assert visuals.tolist() == texts.tolist() == [0, 1, 2]


def test_errors_say_what_was_expected_and_found():
    with pytest.raises(ValueError, match="No protocol 'coco'; protocols: flickr8k-1k, .*none"):
        protocols.check("coco", 1, 1, 1)
    with pytest.raises(ValueError, match=r"1000 visuals × 5 .*found 500 visuals and 2500 .*counts: flickr8k-testA"):
        protocols.check("flickr8k-1k", 500, 2500, 5)
    with pytest.raises(ValueError, match="4 to 6 per visual.*none of them"):
        protocols.check("flickr8k-testA", 500, 2500, np.array([4, 6] + [5] * 498))
    with pytest.raises(ValueError, match="exchanged"):
        protocols.check("flickr8k-testA", 2500, 500, 1)


def test_numbers_of_texts_that_differ():
    each = np.full(670, 41) + (np.arange(670) < 293)
    protocols.check("msvd-multi", 670, 27763, each)
    with pytest.raises(ValueError, match="670 visuals × one or more texts = 27763 texts; found 670 .* and 27762 texts"):
        protocols.check("msvd-multi", 670, 27762, each)
    each[:2] = 0, each[0] + each[1]
    with pytest.raises(ValueError, match="one or more texts.* 0 to 84 per visual"):
        protocols.check("msvd-multi", 670, 27763, each)


def test_an_incomplete_gallery_is_refused_unless_told_so():
    """Fewer candidates make recalls better, so the number must not bear the protocol's name without saying so."""
    with pytest.raises(ValueError, match="'msrvtt-1ka': gallery incomplete: 993 of 1000.*incomplete=True"):
        protocols.check("msrvtt-1ka", 993, 993, 1, missing=7)
    protocols.check("msrvtt-1ka", 993, 993, 1, missing=7, incomplete=True)
    protocols.check("msvd-multi", 660, 27000, np.array([41]), missing=10, incomplete=True)
    protocols.check(None, 993, 993, 1, missing=7)
    assert protocols.gallery(993, 7) == "gallery incomplete: 993 of 1000" and protocols.gallery(1000, 0) is None
    for visuals, each in ((994, 1), (993, 2)):
        with pytest.raises(ValueError, match="'msrvtt-1ka' is 1000 visuals × 1 .* 7 missing visuals"):
            protocols.check("msrvtt-1ka", visuals, visuals * each, each, missing=7, incomplete=True)
