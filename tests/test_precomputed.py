"""Flickr30K and COCO in the layouts of the field: what is read, in which order, and what is refused."""

import json
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vlr_jax import captions, media, pipeline, precomputed, prepare, text
from vlr_jax.data import coco, flickr30k

SIZES = {"train": 4, "dev": 3, "test": 2}


def caption(split, i, k):
    return f"caption {k} of image {i} of {split} ."


def regions(n, first=0, dim=8):
    """`[n, 3, dim]` float32, every number another one."""
    return np.arange(first, first + n * 3 * dim, dtype=np.float32).reshape(n, 3, dim) / 16


def scan(folder, sizes=SIZES, each=1, mapping=True, ids=True):
    """SCAN's and VSE∞'s files, five captions an image."""
    (folder / "precomp").mkdir(parents=True)
    start = 0
    for split, n in sizes.items():
        lines = [caption(split, i, k) for i in range(n) for k in range(5)]
        (folder / "precomp" / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines))
        np.save(folder / "precomp" / f"{split}_ims.npy", regions(n, first=start).repeat(each, axis=0))
        if ids:
            numbers = np.repeat(np.arange(start, start + n), 5)
            (folder / "precomp" / f"{split}_ids.txt").write_text("".join(f"{i}\n" for i in numbers))
        start += n
    if mapping:
        files = {str(i): f"{1000 + i}.jpg" for i in range(start)}
        (folder / "id_mapping.json").write_text(json.dumps(files))
    return folder


def karpathy(path, splits, extra=0, **more):
    """A Karpathy JSON with the splits of its images in this order; captions beyond five for the first `extra`."""
    images = []
    for i, split in enumerate(splits):
        sentences = [
            {"raw": f" {caption(split, i, k)}\n", "tokens": ["a"], "sentid": 5 * i + k} for k in range(5 + (i < extra))
        ]
        image = {"split": split, "filename": f"img_{i}.jpg", "imgid": i, "sentences": sentences}
        images.append(image | {key: value(i) for key, value in more.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "dataset": "x"}))
    return path


def run(dataset, source, root, **options):
    return prepare.prepare(dataset, root, source=source, options={"subset": True} | options, progress=False)


def records(root, split):
    content = prepare.read(root)
    builder = tfds.builder_from_directory(root / content["dataset"] / content["version"])
    return list(builder.as_data_source(split=split))


@pytest.mark.parametrize("each", [1, 5])
def test_lines_with_features_once_or_five_times(tmp_path, each):
    content = run("flickr30k", scan(tmp_path / "raw", each=each), tmp_path / "root", dev=2)
    assert {s: (n["visuals"], n["texts"]) for s, n in content["splits"].items()} == {
        "train": (4, 20), "dev": (2, 10), "test": (2, 10),
    }  # fmt: skip
    assert content["visual"] == {"shape": [None, 8], "dtype": "float16"} and not content["has_thumbs"]
    assert any("not asserted" in note for note in content["notes"])
    assert any("the first 2 of 3 visuals" in note for note in content["notes"])
    assert any("stand 5 times" in note for note in content["notes"]) == (each == 5)
    assert len(content["sources"]) == 10 and content["options"]["subset"] is True
    test = records(tmp_path / "root", "test")
    assert [r["name"].decode() for r in test] == ["1007.jpg", "1008.jpg"]
    assert [t.decode() for t in test[1]["text"]] == [caption("test", 1, k) for k in range(5)]
    np.testing.assert_array_equal(np.stack([r["visual"] for r in test]), regions(2, first=7).astype(np.float16))
    words = text.Words.build(json.loads((tmp_path / "root" / "words.json").read_text())["counts"], length=12)
    split = pipeline.open_split({"root": str(tmp_path / "root"), "split": "dev"}, words)
    assert split.texts[7] == caption("dev", 1, 2) and split.text_visual[7] == 1
    assert split.visual(1)["visual"].shape == (3, 8)


def test_from_the_command_line(good, tmp_path):
    root = tmp_path / "root"
    command = [sys.executable, "-m", "vlr_jax.prepare", "--dataset", "flickr30k", "--source", str(good), "--out"]
    done = subprocess.run([*command, str(root), "--option", "subset=true"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test: 2 visuals, 10 texts, up to 3 elements each" in done.stdout and "not asserted" in done.stdout
    done = subprocess.run([*command, str(tmp_path / "other")], capture_output=True, text=True)
    assert done.returncode == 1 and "train has 4 images, expected 29000" in done.stderr


def test_names_of_lines(tmp_path):
    coco = {"train": 2, "dev": 1, "testall": 2, "test": 1}
    content = run("coco", scan(tmp_path / "ids", coco), tmp_path / "a")
    assert [r["name"] for r in records(tmp_path / "a", "testall")] == [b"3", b"4"]
    assert sorted(content["splits"]) == ["dev", "testall", "train"] and "test_caps.txt is not read" in content["notes"]
    run("coco", scan(tmp_path / "bare", coco, ids=False, mapping=False) / "precomp", tmp_path / "b")
    assert [r["name"] for r in records(tmp_path / "b", "testall")] == [b"testall/0", b"testall/1"]


ORDER = ["test", "train", "val", "restval", "train", "test"]


@pytest.mark.parametrize("form", ["npy", "npy5", "npz", "folder"])
def test_karpathy(tmp_path, form):
    path = karpathy(tmp_path / "dataset_coco.json", ORDER, extra=2, cocoid=lambda i: 100 + i)
    feats = regions(6)
    if form.startswith("npy"):
        np.save(tmp_path / "f.npy", feats.repeat(5, axis=0) if form == "npy5" else feats)
        features = "f.npy"
    elif form == "npz":
        turned = slice(None, None, -1)
        np.savez(tmp_path / "f.npz", names=[f"img_{i}.jpg" for i in range(6)][turned], feat=feats[turned])
        features = "f.npz"
    else:
        (tmp_path / "f").mkdir()
        for i in range(6):
            np.save(tmp_path / "f" / f"{100 + i}.npy", feats[i])
        features = "f"
    content = run("coco", tmp_path, tmp_path / "root", features=features)
    assert {s: (n["visuals"], n["texts"]) for s, n in content["splits"].items()} == {
        "train": (3, 16), "dev": (1, 5), "testall": (2, 10),
    }  # fmt: skip
    assert any("train: 1 captions beyond" in n and "kept" in n for n in content["notes"])
    assert any("testall: 1 captions beyond" in n and "left out" in n for n in content["notes"])
    train = records(tmp_path / "root", "train")
    assert [r["name"] for r in train] == [b"101", b"103", b"104"]  # restval stands where the JSON has it
    assert train[1]["text"][2].decode() == caption("restval", 3, 2)
    np.testing.assert_array_equal(train[1]["visual"], feats[3].astype(np.float16))
    assert run("coco", path, tmp_path / "root", features=features) == content


def test_pictures(tmp_path):
    def picture(name, i):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(media.encode_jpeg(np.full((20, 40, 3), 20 * i, np.uint8)))

    for i in range(6):
        picture(f"img_{i}.jpg", i)
    karpathy(tmp_path / "dataset_flickr30k.json", ["train", "train", "train", "val", "test", "test"])
    content = run("flickr30k", tmp_path, tmp_path / "a", media="pictures", image_size=16)
    assert content["frames"] == {"count": 1, "size": [16, 32]} and content["visual"] is None
    source = scan(tmp_path / "vse")
    for i in range(9):
        picture(f"{1000 + i}.jpg", i)
    content = run("flickr30k", source, tmp_path / "b", media=str(tmp_path / "pictures"))
    assert content["visual"] and content["has_thumbs"] and content["frames"] is None
    for split in SIZES:
        (source / "precomp" / f"{split}_ims.npy").unlink()
    content = run("flickr30k", source, tmp_path / "c", media=str(tmp_path / "pictures"))
    assert content["frames"]["count"] == 1 and records(tmp_path / "c", "test")[0]["name"] == b"1007.jpg"
    for number in range(2):
        with tarfile.open(tmp_path / "vse" / f"images_{number}.tar", "w") as tar:
            for path in sorted((tmp_path / "pictures").glob("1*.jpg"))[number::2]:
                tar.add(path, path.name)
    for media_option in ("images_*.tar", "images_0.tar,images_1.tar"):
        content = run("flickr30k", source, tmp_path / media_option, media=media_option.replace("images", "../images"))
        assert content["frames"]["count"] == 1
        assert [s["name"] for s in content["sources"]][-2:] == ["images_0.tar", "images_1.tar"]
    (source / "id_mapping.json").unlink()
    with pytest.raises(ValueError, match="found through train_ids.txt and id_mapping.json"):
        run("flickr30k", source, tmp_path / "d", media=str(tmp_path / "pictures"))


def test_prepared_inside_the_source(tmp_path):
    """Only features or pictures count as sources, and nothing that was prepared: the folder is found as it is."""
    karpathy(tmp_path / "dataset_flickr30k.json", ["train", "val", "test"])
    for i in range(3):
        (tmp_path / f"img_{i}.jpg").write_bytes(media.encode_jpeg(np.full((20, 40, 3), 20 * i, np.uint8)))
        (tmp_path / "feats").mkdir(exist_ok=True)
        np.save(tmp_path / "feats" / f"img_{i}.npy", regions(1, first=i)[0])
    (tmp_path / "feats" / "readme.txt").write_text("x")
    pictures = run("flickr30k", tmp_path, tmp_path / "root")
    names = ["dataset_flickr30k.json", "img_0.jpg", "img_1.jpg", "img_2.jpg"]
    assert [s["name"] for s in pictures["sources"]] == names
    for place in ("root", "root.partial-host-1"):  # what a killed run left counts as little
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "made.jpg").write_bytes(b"")
    (tmp_path / "more.txt").write_text("x")
    assert run("flickr30k", tmp_path, tmp_path / "root") == pictures
    (tmp_path / "rooted.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="prepared from something else: sources"):
        run("flickr30k", tmp_path, tmp_path / "root")
    inside = tmp_path / "feats" / "root"
    content = run("flickr30k", tmp_path, inside, features="feats")
    assert [s["name"] for s in content["sources"]] == [names[0], "img_0.npy", "img_1.npy", "img_2.npy"]
    assert run("flickr30k", tmp_path, inside, features="feats") == content


def broken(change):
    """The files of `scan` after `change(folder with the captions)`."""

    def make(source):
        change(source / "precomp")

    return make


def save(name, array):
    return broken(lambda folder: np.save(folder / name, array))


def edit(name, old, new):
    return broken(lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new, 1)))


NAN = regions(4)
NAN[2, 1, 3] = np.nan
UNEQUAL = regions(4).repeat(5, axis=0)
UNEQUAL[13, 0, 0] += 1
FORTRAN = np.asfortranarray(regions(4))

DEFECTS = {
    "rows": (save("train_ims.npy", regions(7)), "7 rows of features, but 20 captions of 4 images; expected 4 rows"),
    "unequal": (save("train_ims.npy", UNEQUAL), r"visual 2 \(1002.jpg\): rows 10 and 13 of train_ims.npy differ"),
    "nan": (save("train_ims.npy", NAN), r"visual 2 \(1002.jpg\): 1 of 24 features are NaN or infinite"),
    "large": (save("train_ims.npy", 1e6 * regions(4)), "visual 0 .*features reach 1.4.*65504"),
    "width": (save("dev_ims.npy", regions(3, dim=9)), "one width; found train: 8, dev: 9, test: 8"),
    "integers": (save("dev_ims.npy", np.zeros((3, 3, 8), int)), "expected floating-point features .* found int64"),
    "shape": (save("dev_ims.npy", np.zeros((3, 3, 8, 1))), r"\[N, R, D\] or \[N, D\], found float64 \(3, 3, 8, 1\)"),
    "objects": (save("dev_ims.npy", np.array([None])), "cannot be memory-mapped as numbers"),
    "fortran": (save("train_ims.npy", FORTRAN), "Fortran order"),
    "truncated": (
        broken(lambda f: (f / "dev_ims.npy").write_bytes((f / "dev_ims.npy").read_bytes()[:-9])),
        "dev_ims.npy cannot be memory-mapped",
    ),
    "no features": (broken(lambda folder: (folder / "dev_ims.npy").unlink()), "dev_ims.npy does not exist"),
    "empty": (edit("dev_caps.txt", caption("dev", 1, 1), " . "), "1 lines have neither a letter nor a digit: 7"),
    "one more": (edit("dev_caps.txt", "caption", "a line\ncaption"), "16 captions; expected 5 an image, 1 are over"),
    "latin": (broken(lambda f: (f / "dev_caps.txt").write_bytes(b"caf\xe9\n")), "dev_caps.txt, line 1: not UTF-8"),
    "ids": (edit("dev_ids.txt", "5\n5", "5\n6"), "line 7: id 6, but the first caption of that image has 5"),
    "id": (edit("dev_ids.txt", "5", "x"), "line 6: expected a whole number, found 'x'"),
    "few ids": (edit("dev_ids.txt", "5\n", ""), r"14 ids for 3 images; expected 3 or 15 \(one a caption\)"),
    "unmapped": (
        broken(lambda f: (f.parent / "id_mapping.json").write_text('{"1": "a"}')),
        "3 ids are not in id_mapping.json, the first: 0",
    ),
    "mapping": (broken(lambda f: (f.parent / "id_mapping.json").write_text("[1]")), '"id": "file"'),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return scan(tmp_path_factory.mktemp("precomputed") / "raw")


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects(good, tmp_path, defect):
    change, message = DEFECTS[defect]
    source = shutil.copytree(good, tmp_path / "raw")
    change(source)
    with pytest.raises(ValueError, match=message):
        run("flickr30k", source, tmp_path / "root")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_the_release_is_asserted(good, tmp_path):
    message = "train has 4 images, expected 29000; dev has 3 images, expected 1014 or 1000; .*subset=true"
    with pytest.raises(ValueError, match=message):
        run("flickr30k", good, tmp_path / "root", subset=False)
    with pytest.raises(ValueError, match="lacks testall_caps.txt; it has: dev_caps.txt, test_caps.txt, train_caps"):
        run("coco", good, tmp_path / "root", subset=False)
    with pytest.raises(ValueError, match="neither .*caps.txt .*nor dataset_coco.json"):
        run("coco", tmp_path, tmp_path / "root")
    with pytest.raises(ValueError, match="A source is needed"):
        run("coco", None, tmp_path / "root")
    with pytest.raises(ValueError, match="dev must be"):
        run("flickr30k", good, tmp_path / "root", dev=-1)
    with pytest.raises(ValueError, match="features 'nowhere' is neither in"):
        run("flickr30k", good, tmp_path / "root", features="nowhere")
    one = tmp_path / "one"
    shutil.copytree(good, one)
    (one / "precomp" / "dev_caps.txt").unlink()
    assert sorted(run("flickr30k", one, tmp_path / "part")["splits"]) == ["test", "train"]


@pytest.mark.parametrize("release, sizes", [(flickr30k, (29000, 1014, 1000)), (coco, (113287, 5000, 5000))])
def test_the_release_passes(release, sizes, tmp_path):
    for split, n in zip(release.RELEASE.counts, sizes, strict=True):
        (tmp_path / f"{split}_caps.txt").write_text("a\n" * (5 * n))
        np.save(tmp_path / f"{split}_ims.npy", np.zeros((n, 1), np.float16))
    splits, _, notes = precomputed.read(release.RELEASE, source=tmp_path)
    assert [len(made.names) for made in splits.values()] == [sizes[0], 1000, sizes[2]]
    assert [len(made.texts) for made in splits.values()] == [sizes[0], 1000, sizes[2]]
    assert notes == [f"dev: the first 1000 of {sizes[1]} visuals, as the field evaluates (dev=0 keeps all)"]


def test_karpathy_defects(tmp_path):
    def message(expected, **options):
        with pytest.raises(ValueError, match=expected):
            run("flickr30k", tmp_path, tmp_path / "root", **{"features": "f.npy"} | options)

    path = karpathy(tmp_path / "dataset_flickr30k.json", ["train", "val", "test"])
    np.save(tmp_path / "f.npy", regions(4))
    message("4 rows of features, but 15 captions of 3 images")
    np.savez(tmp_path / "f.npz", names=["img_0.jpg"], feat=regions(1))
    message("has no features of 2 of 3 images, such as img_1.jpg", features="f.npz")
    np.save(tmp_path / "f.npy", regions(3))
    good = path.read_text()
    for images in ([], None, {"a": 1}):
        path.write_text(json.dumps({"images": images}))
        message("expected a list of images, found")
    for old, new, expected in (
        ('"val"', '"valid"', "split 'valid'; expected one of train, val, test"),
        ('"raw"', '"rare"', "image 0: expected split, filename and sentences"),
        ("{", "", "no Karpathy JSON"),
        ("caption 1 of image 0 of train .", "?", r"image 0 \(img_0.jpg\): no captions, or one without"),
    ):
        path.write_text(good.replace(old, new, 1))
        message(expected)
    content = json.loads(good)
    content["images"][1]["sentences"].pop()
    path.write_text(json.dumps(content))
    message("1 images of dev have fewer than 5 captions, such as img_1.jpg", subset=False)


def test_real_captions(shared_data):
    """The released lines: their numbers, and that none is refused."""
    counts = {"coco_captions/dev": 5000, "coco_captions/testall": 25000, "f30k_captions/dev": 5070,
              "f30k_captions/test": 5000}  # fmt: skip
    for name, n in counts.items():
        path = shared_data / f"{name}_caps.txt"
        if not path.is_file():
            pytest.skip(f"no {path}")
        assert len(captions.lines(path)) == n
