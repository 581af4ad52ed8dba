"""What the command does with a gallery: an index of it, its features, a search in it, by the model of a run."""

import pathlib
import sys

from vlr_jax import batching, extract, finding, index, pipeline, prepare, sharding, tiles


def functions(run) -> dict:
    """`Task.predict()` of the run.

    Raises:
        ValueError: its model encodes no visuals and texts apart, so that there is nothing to index or to search.
    """
    predict = run.task.predict()
    if "encode_visual" not in predict:
        raise ValueError(
            f"the model {run.config['model'].get('name')} of this run encodes no visual by itself; --mode localize "
            "uses it (of the models that find moments, cdnet can be indexed)"
        )
    return predict


def build(run, data: dict, folder, mesh) -> str:
    """Encodes every visual of a prepared split once and keeps the embeddings in `folder`; tells what was done.

    Raises:
        ValueError: as `functions`, `pipeline.open_split`, `index.build`; or features that are not the checkpoint's.
    """
    predict, split = functions(run), _open(run, data)
    rows = sharding.rows(run.config["batch_size"], mesh)
    encoded = tiles.encode_split(predict, run.variables, split, "visuals", rows, mesh=mesh, progress=True)
    meta = {
        "model": run.digest,
        "step": run.step,
        "data": data["root"],
        "split": data["split"],
        "ids": split.ids_hash,
        "seen": run.seen,
    }
    folder = index.build(folder, encoded, split.names, meta)
    return f"{split.n_visuals} visuals of {data['root']} ({data['split']}) indexed in {folder}"


def features(run, data: dict, only: str | None, folder, mesh) -> None:
    """Encodes the visuals of a prepared folder, of all its splits or of `only` one, into one file each; prints."""
    encode = functions(run)["encode_visual"]
    rows = sharding.rows(run.config["batch_size"], mesh)
    for name in [only] if only else prepare.read(data["root"])["splits"]:
        split = _open(run, data | {"split": name})
        place = extract.claim(folder, extract.identity(run, split, data))
        new = extract.write(place, encode, run.variables, split, rows, mesh=mesh)
        print(f"{name}: {split.n_visuals} visuals in {place}, {new} of them encoded now")
    print(f"next: python -m vlr_jax.prepare --dataset NAME --source DIR --features {place} --out ROOT")


def search(run, folder, queries: list[str], top_k: int, mesh) -> list[dict]:
    """Ranks an indexed gallery for every query: JSON values `query` and `results` (`name`, `score`), best first.

    Raises:
        ValueError: as `functions` and `index.load`, or a query of which no word is known.
    """
    predict = functions(run)
    for query in queries:
        if notes := run.tokenizer.notes(query):
            print(f"{query!r}: {notes}", file=sys.stderr)
    items = index.load(pathlib.Path(folder), expect={"model": run.digest})
    batches = batching.text_batches(run.tokenizer, queries, sharding.rows(64, mesh))
    encoded = tiles.encode_all(predict["encode_text"], run.variables, batches, mesh=mesh)
    found = index.query(predict["similarity"], run.variables, items, encoded, top_k, mesh=mesh)
    return [
        {"query": query, "results": [{"name": name, "score": score} for name, score in hits]}
        for query, hits in zip(queries, found, strict=True)
    ]


def table(found: list[dict]) -> str:
    """What `search` found, for people."""
    lines = []
    for one in found:
        lines += ["", one["query"]]
        lines += [f"{place:4d}  {hit['score']:7.4f}  {hit['name']}" for place, hit in enumerate(one["results"], 1)]
    return "\n".join(lines)


def _open(run, data: dict):
    if run.config["task"] == "moment":
        finding.fits(run, data)
    return pipeline.open_split(data, run.tokenizer, keys=())
