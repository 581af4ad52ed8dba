"""Makes tests/golden/clip_hf.npz, the numbers of a Hugging Face CLIP that layers/clip.py is tested against.

    pip install torch transformers        (in an environment of its own: the library needs neither)
    python launch/golden_clip.py --out tests/golden/clip_hf.npz

A tiny random `CLIPModel` of `transformers`, made here from a seed, with towers of different widths and heads. Keys:

* `config` the folder's config.json as text; `weights/<name>` float32, as the folder's model.safetensors has them;
* `frames` uint8 `[3, 24, 24, 3]`; `ids`, `mask` int32 and bool `[4, 9]`: behind the end mark, which is the highest id,
  stands its id again, as Hugging Face pads;
* of the float64 model: `image_embeds`, `text_embeds` un-normalised, `logits_per_image`; `tokens` the last hidden states
  of the text tower, `patches` those of the image tower before its last norm.
"""

import argparse
import pathlib
import tempfile

import numpy as np
import torch
import transformers

VOCABULARY, LENGTH = 60, 9
TEXT = dict(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=12, bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1,
)  # fmt: skip
VISION = dict(
    hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=8
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def texts(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Start mark, random pieces, end mark, and padding by end marks."""
    lengths = np.array([9, 3, 5, 7])
    ids = rng.integers(1, VOCABULARY - 2, (4, LENGTH))
    ids[:, 0] = VOCABULARY - 2
    mask = np.arange(LENGTH) < lengths[:, None]
    ids[np.arange(LENGTH) >= lengths[:, None] - 1] = VOCABULARY - 1
    return ids.astype(np.int32), mask


def numbers(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The random CLIP's config, weights, inputs and outputs."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=20)
    made = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for weight in made.parameters():  # far from the initialisation, where biases are 0 and scales 1
            weight.add_(0.15 * torch.randn_like(weight))
    made.save_pretrained(folder)
    weights = {f"weights/{name}": value.numpy().copy() for name, value in made.state_dict().items()}
    rng = np.random.default_rng(0)
    ids, mask = texts(rng)
    frames = rng.integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    pixels = torch.tensor(((frames / 255 - MEAN) / STD).transpose(0, 3, 1, 2))
    inputs = dict(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask))
    with torch.no_grad():
        made = made.double()
        text, vision = made.text_model(**inputs), made.vision_model(pixels)
        image_embeds, text_embeds = made.visual_projection(vision[1]), made.text_projection(text[1])
        both = made(pixel_values=pixels, **inputs)
        unit = lambda x: x / x.norm(dim=-1, keepdim=True)
        assert torch.allclose(both.image_embeds, unit(image_embeds)) and torch.allclose(
            both.text_embeds, unit(text_embeds)
        )
        made.text_model.eos_token_id = 2  # as in the configs of OpenAI's models: the place of the highest id instead
        assert torch.equal(made.text_model(**inputs)[1], text[1])
    return weights | {
        "config": np.array((folder / "config.json").read_text()), "ids": ids, "mask": mask, "frames": frames,
        "image_embeds": image_embeds.numpy(), "text_embeds": text_embeds.numpy(),
        "logits_per_image": both.logits_per_image.numpy(), "tokens": text[0].numpy(), "patches": vision[0].numpy(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = numbers(pathlib.Path(folder))
    np.savez_compressed(options.out, **made)


if __name__ == "__main__":
    main()
