"""Pictures: decoding of what people have, shrinking, and finding files in folders and tars."""

import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from vlr_jax import media


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options) if isinstance(image, np.ndarray) else image.save(
        stream, kind, **options
    )
    return stream.getvalue()


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)


def test_decode_png_is_exact_and_writable(noise):
    image = media.decode(encoded(noise))
    np.testing.assert_array_equal(image, noise)
    assert image.dtype == np.uint8 and image.flags.writeable and media.size(encoded(noise)) == (90, 160)


def test_decode_turns_upright():
    left_red = np.zeros((20, 40, 3), np.uint8)
    left_red[:, :20, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: to be turned by 90° clockwise
    image = media.decode(encoded(left_red, "JPEG", exif=exif, quality=95))
    assert image.shape == (40, 20, 3)
    assert image[:18, :, 0].min() > 200 and image[22:, :, 0].max() < 60


def test_decode_modes():
    grey16 = Image.fromarray(np.array([[0, 256 * 7, 65535]], np.uint16))
    np.testing.assert_array_equal(media.decode(encoded(grey16))[0, :, 0], [0, 7, 255])
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, :, 3] = 255
    np.testing.assert_array_equal(media.decode(encoded(clear))[..., 0], [[0, 0], [255, 255]])
    assert media.decode(encoded(Image.new("1", (3, 2), 1))).shape == (2, 3, 3)
    assert media.decode(encoded(Image.new("CMYK", (3, 2)), "JPEG")).shape == (2, 3, 3)
    with pytest.raises(ValueError, match="32-bit"):
        media.decode(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


def test_decode_at_least():
    data = encoded(Image.new("RGB", (1600, 800)), "JPEG")
    assert media.decode(data).shape == (800, 1600, 3)
    assert media.decode(data, at_least=150).shape == (200, 400, 3)
    assert media.decode(data, at_least=3000).shape == (800, 1600, 3)


def test_broken_images(noise, monkeypatch):
    whole = encoded(noise, "JPEG")
    for data in (b"", b"no image", whole[: len(whole) // 2], encoded(noise)[:-400]):
        with pytest.raises(ValueError, match="cannot decode the image"):
            media.decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="DecompressionBomb"):
        media.decode(encoded(np.zeros((90, 160, 3), np.uint8)))


def test_shrink_never_enlarges(noise):
    assert media.shrink(noise, shorter=45).shape == (45, 80, 3)
    assert media.shrink(noise, longer=80).shape == (45, 80, 3)
    assert media.shrink(noise, shorter=90, longer=160) is noise and media.shrink(noise, shorter=500) is noise
    assert media.shrink(np.zeros((1, 500, 3), np.uint8), longer=50).shape == (1, 50, 3)


def test_thumbnail_is_small(noise):
    photo = np.tile(noise, (5, 5, 1))
    data = media.thumbnail(photo)
    assert media.size(data) == (63, 112) and len(data) <= 6144
    assert media.size(media.thumbnail(noise[:20, :30])) == (20, 30)


def test_fit_keeps_the_centre():
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, 40:80] = 200
    assert (media.fit(image, 40) == 200).all()
    assert media.fit(image.transpose(1, 0, 2), 16).shape == (16, 16, 3)
    square = image[:, :40]
    assert media.fit(square, 40) is square
    jpeg = media.decode(media.encode_jpeg(media.fit(image, 40), 95))
    assert np.abs(jpeg.astype(int) - 200).max() <= 3


def test_fit_is_clip_s_preprocessing():
    """openai/CLIP's transform (torchvision on a Pillow image), every pixel equal: up, down and odd sizes."""
    with np.load(pathlib.Path(__file__).parent / "golden" / "clip_preprocess.npz") as archive:
        for k in range(7):
            np.testing.assert_array_equal(media.fit(archive[f"image_{k}"], 32), archive[f"fitted_{k}"], err_msg=str(k))


def test_fit_of_a_line_of_pixels():
    line = np.zeros((1, 20_000, 3), np.uint8)
    line[:, 9_999:10_001] = 255
    assert media.fit(line, 64).shape == (64, 64, 3) == media.fit(line.swapaxes(0, 1), 64).shape
    assert (media.fit(line, 2) > 200).all()


@pytest.fixture
def folder(tmp_path):
    for name, data in {"a/1.jpg": b"a1", "b/1.jpg": b"b1", "b/2.jpg": b"b2"}.items():
        path = tmp_path / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return tmp_path / "media"


@pytest.fixture(params=["folder", "tar"])
def opened(request, folder, tmp_path):
    if request.param == "folder":
        return media.open_media([folder])
    paths = []
    for part in ("a", "b"):
        paths.append(tmp_path / f"{part}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            tar.add(folder / part, f"./{part}")
    return media.open_media(paths)


def test_open_media_finds_by_path_and_by_last_part(opened):
    assert opened["a/1.jpg"] == b"a1" and opened["b/1.jpg"] == b"b1"
    assert opened["2.jpg"] == b"b2" and opened["elsewhere/2.jpg"] == b"b2"
    assert "2.jpg" in opened and "3.jpg" not in opened
    with pytest.raises(ValueError, match="no such media"):
        opened["3.jpg"]
    with pytest.raises(ValueError, match="2 media files have that name"):
        opened["1.jpg"]


def test_open_media_stays_inside(opened, folder):
    for name in ("../secret.jpg", str(folder.parent / "secret.jpg"), "a/../../secret.jpg"):
        assert name not in opened
        with pytest.raises(ValueError, match="refused|no such"):
            opened[name]
    for name in ("x" * 5000, "a\0b"):
        assert name not in opened


def test_open_media_refuses_other_things(folder, tmp_path):
    packed = tmp_path / "a.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(folder / "a", "a")
    with pytest.raises(ValueError, match="uncompressed tar"):
        media.open_media([packed])
    for paths in ([], [folder, folder], [tmp_path / "absent.tar"]):
        with pytest.raises(ValueError, match="one folder or tar files"):
            media.open_media(paths)
