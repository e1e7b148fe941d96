"""A CLIP and auxiliary encoders so small and random that they load at once, and pictures for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from logitfusion.clip.encoders.build import build_clip
from logitfusion.config.clip_recipe import ClipRecipe

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "dark_blue": (20, 20, 150)}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "of", "photo", "picture", ".", "red", "green", "dark", "blue")


def write_pictures(folder: Path, colour: Sequence[int], count: int, *, seed: int) -> list[Path]:
    """Noisy squares of a colour on grey."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, paths = torch.Generator().manual_seed(seed), []
    for number in range(count):
        pixels = torch.full((24, 24, 3), 128.0)
        pixels[number % 8 : number % 8 + 14, 4:18] = torch.tensor([float(part) for part in colour])
        pixels += 25 * torch.randn(pixels.shape, generator=generator)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels.clamp(0, 255).byte().numpy()).save(paths[-1])
    return paths


def write_image_tower(path: Path, model: str, seed: int) -> Path:
    """A random checkpoint of a timm model."""
    torch.manual_seed(seed)
    save_file(timm.create_model(model, num_classes=0).state_dict(), path)
    return path


def write_text_tower(folder: Path) -> Path:
    """A random BERT of one layer over ``WORDS``."""
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), initializer_range=0.5, **shape)).save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP of two random towers, built on a few pictures of colours, so that it knows a little."""
    scratch = folder.with_name(f"{folder.name} towers")
    pairs = []
    for seed, (name, colour) in enumerate(COLOURS.items()):
        caption = name.replace("_", " ")
        pairs += [(path, caption) for path in write_pictures(scratch / name, colour, 3, seed=100 + seed)]
    torch.manual_seed(1)
    trunk = timm.create_model("test_efficientnet", num_classes=0).state_dict()
    build_clip(
        pairs,
        folder,
        image_tower=("test_efficientnet", trunk),
        text_tower=write_text_tower(scratch / "text"),
        recipe=ClipRecipe(steps=20, dropout=0.1, held_out=0.0, image_size=32, context_length=12),
    )
    return folder
