"""A small CLIP made here from two pretrained towers, for machines that reach no model hub.

Locked-image tuning (Zhai et al., arXiv 2111.07991) with both towers locked: an MLP maps what an image classifier sees
into the space of a sentence encoder, trained with CLIP's loss. The towers run once over the pairs; the MLP trains on
what they gave, in seconds.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from logitfusion.artefact import write_artefact
from logitfusion.clip.data.formats import readable_formats
from logitfusion.clip.encoders.load import ClipEncoder, load_clip, open_folder
from logitfusion.clip.encoders.towers import TEXT_FILES, fill, read_sentence_weights
from logitfusion.config.clip_recipe import ClipRecipe
from logitfusion.errors import UserError
from logitfusion.files import read_json, whole
from logitfusion.integrity import RECORD, as_rows, record_files
from logitfusion.models.load import first_line
from logitfusion.progress.pace import Rate

logger = logging.getLogger(__name__)


def build_clip(
    pairs: Sequence[tuple[str | Path, str]],
    folder: str | Path,
    *,
    image_tower: tuple[str, dict[str, Tensor]],
    text_tower: str | Path,
    recipe: ClipRecipe,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Build a CLIP and write it as a folder that ``load_clip`` and open_clip (``local-dir:``) read.

    The folder holds ``open_clip_config.json``, ``open_clip_model.safetensors``, the tokenizer, and ``record.json``. It
    names no path. open_clip's own calls work on it when it is the working directory; ``load_clip`` and
    ``open_folder`` read it from anywhere.

    Args:
        pairs: pictures and captions. Pairs that share a picture or a caption are one concept: no batch has two of them
            (each would be a wrong answer to the other), and the held-out ones are whole concepts.
        folder: is replaced.
        image_tower: a timm model's name and its weights, without classifier.
        text_tower: folder of a transformers sentence encoder, read with mean pooling.
        recipe: how to train.

    Returns:
        What ``record.json`` holds beside the digests of the files: counts, retrieval figures on held-out concepts, the
        loss curve.

    Raises:
        UserError: too few pairs, a picture or a tower that can't be read.
    """
    started = time.monotonic()
    concepts = find_concepts(pairs)
    training, held_out = split_concepts(concepts, recipe.held_out, recipe.seed)
    if len(training) < 2:
        raise UserError(f"A CLIP can't be built from {len(concepts)} concepts; give more pictures with captions.")
    with whole(folder) as temporary:
        temporary.mkdir()
        _write_config(temporary, image_tower[0], Path(text_tower), recipe)
        _write_weights(temporary, image_tower, Path(text_tower), recipe.seed)
        clip = load_clip({"source": "built", "path": temporary}, device=device)
        images = run_image_tower(clip, [path for path, _ in pairs])
        texts = embed_texts(clip, [template.format(text) for _, text in pairs for template in recipe.templates])
        texts = texts.unflatten(0, (len(pairs), len(recipe.templates)))
        logger.info("%d pairs through both towers in %.1f s", len(pairs), time.monotonic() - started)
        curve = train_head(clip.model, images, texts, training, recipe)
        facts = {
            "pairs": len(pairs),
            "concepts": len(concepts),
            "retrieval": measure_retrieval(clip.model, images, texts, held_out),
            "logit_scale": clip.scale,
            "loss": curve,
            "recipe": recipe.dump(),
            "towers": {"image": image_tower[0], "text": read_json(Path(text_tower) / "config.json").get("model_type")},
        }
        save_file({name: value.cpu() for name, value in clip.model.state_dict().items()}, temporary / WEIGHTS)
        files = {"files": as_rows(record_files(temporary))}
        write_artefact(temporary / RECORD, {**facts, **files})
    logger.info("built in %.1f s: %s", time.monotonic() - started, facts["retrieval"])
    return facts


WEIGHTS = "open_clip_model.safetensors"


def find_concepts(pairs: Sequence[tuple[str | Path, str]]) -> list[list[int]]:
    """The numbers of the pairs, put together where they share a picture or a caption, in order of the first."""
    parent = list(range(len(pairs)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, (path, caption) in enumerate(pairs):
        for key in (("picture", str(path)), ("caption", caption)):
            one, other = sorted((root(number), root(first.setdefault(key, number))))
            parent[other] = one
    members: dict[int, list[int]] = {}
    for number in range(len(pairs)):
        members.setdefault(root(number), []).append(number)
    return list(members.values())


def split_concepts(concepts: list[list[int]], held_out: float, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Concepts to train on and those to leave out, drawn by the seed."""
    order = torch.randperm(len(concepts), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = round(held_out * len(concepts))
    return [concepts[place] for place in sorted(order[cut:])], [concepts[place] for place in sorted(order[:cut])]


def _write_config(folder: Path, image_tower: str, text_tower: Path, recipe: ClipRecipe) -> None:
    """The config in open_clip's words, and the text tower's own files beside it."""
    for name in TEXT_FILES:
        if name != "model.safetensors" and (text_tower / name).is_file():
            shutil.copyfile(text_tower / name, folder / name)
    if not timm.is_model(image_tower):
        raise UserError(f"timm has no model {image_tower!r}; correct the image tower's model key.")
    seen = resolve_model_data_config(timm.create_model(image_tower, pretrained=False))
    width = read_json(text_tower / "config.json")["hidden_size"]
    config = {
        "model_cfg": {
            "embed_dim": width,
            "vision_cfg": {
                "image_size": recipe.image_size,
                "timm_model_name": image_tower,
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "timm_drop": recipe.dropout,
            },
            "text_cfg": {
                "hf_model_name": ".",  # open_folder puts the folder's place here when it opens it
                "hf_tokenizer_name": ".",
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": None,
                "context_length": recipe.context_length,
            },
        },
        "preprocess_cfg": {"mean": seen["mean"], "std": seen["std"], "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _write_weights(folder: Path, image_tower: tuple[str, dict[str, Tensor]], text_tower: Path, seed: int) -> None:
    """Both towers' weights and a fresh MLP."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, _ = open_folder(folder, load_weights=False)
    fill(model.visual.trunk, image_tower[1], f"of {image_tower[0]}")
    fill(model.text.transformer, read_sentence_weights(text_tower), f"in {text_tower}")
    save_file(model.state_dict(), folder / WEIGHTS)


@torch.inference_mode()
def run_image_tower(clip: ClipEncoder, paths: Sequence[str | Path], batch_size: int = 16) -> Tensor:
    """What the image tower makes of pictures before the MLP, ``[n, W]``; each file is read once."""
    distinct = list(dict.fromkeys(str(path) for path in paths))
    device = next(clip.model.parameters()).device
    seen, rate = [], Rate("image tower", "pictures", len(distinct))
    for start in range(0, len(distinct), batch_size):
        batch = torch.stack([clip.preprocess(_open_image(path)) for path in distinct[start : start + batch_size]])
        seen.append(clip.model.visual.trunk(batch.to(device)))
        rate(len(batch))
    place = {path: number for number, path in enumerate(distinct)}
    return torch.cat(seen)[[place[str(path)] for path in paths]]


def _open_image(path: str) -> Image.Image:
    try:
        with Image.open(path, formats=readable_formats()) as image:
            image.load()
            return image
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"The picture {path} can't be read ({first_line(error)}); remove its pair.") from error


@torch.inference_mode()
def embed_texts(clip: ClipEncoder, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Unit-norm embeddings ``[n, D]`` of texts, each read once.

    Texts of like length go together and lose the padding that all of them have, which changes nothing but the time.
    """
    distinct = list(dict.fromkeys(texts))
    tokens = clip.tokenizer(distinct)
    lengths = (tokens != clip.model.text.config.pad_token_id).sum(dim=1)
    order = lengths.argsort(stable=True)
    device = next(clip.model.parameters()).device
    read = [
        clip.model.encode_text(tokens[some, : int(lengths[some].max())].to(device), normalize=True)
        for some in order.split(batch_size)
    ]
    embeddings = torch.cat(read)[order.argsort()]
    place = {text: number for number, text in enumerate(distinct)}
    return embeddings[[place[text] for text in texts]]


def train_head(
    model: nn.Module, images: Tensor, texts: Tensor, concepts: list[list[int]], recipe: ClipRecipe
) -> list[float]:
    """Train the image tower's MLP and the logit scale on what the towers gave; the rest of the model stays as it is.

    Args:
        images: ``[n, W]`` of the pairs, before the MLP.
        texts: ``[n, T, D]``, unit norm, of the pairs in each template.
        concepts: the pairs' numbers, of the concepts to train on.

    Returns:
        The loss at every step.
    """
    head, scale = model.visual.head, model.logit_scale
    matrices = [value for value in head.parameters() if value.ndim > 1]
    vectors = [value for value in head.parameters() if value.ndim < 2] + [scale]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    warm_up = max(1, recipe.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)),
    )
    clip_loss, curve = ClipLoss(), []
    generator = torch.Generator().manual_seed(recipe.seed)
    images, texts = images.clone(), texts.clone()  # they come from inference mode, which autograd refuses
    # The dropout draws from torch's own generator.
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        head.train()
        for value in (*matrices, *vectors):
            value.requires_grad_(True)
        rate = Rate("CLIP", "steps", recipe.steps)
        for _ in range(recipe.steps):
            chosen = draw_pairs(concepts, recipe.batch_size, generator)
            template = torch.randint(texts.shape[1], (len(chosen),), generator=generator)
            seen = F.normalize(head(images[chosen]), dim=-1)
            loss = clip_loss(seen, texts[chosen, template], scale.exp())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                scale.clamp_(0, math.log(100))  # CLIP's bounds
            curve.append(float(loss.detach()))
            rate(1)
        model.eval().requires_grad_(False)
    return curve


def draw_pairs(concepts: list[list[int]], size: int, generator: torch.Generator) -> Tensor:
    """Numbers of ``size`` pairs (or as many as there are concepts), each of another concept."""
    drawn = torch.randperm(len(concepts), generator=generator)[:size].tolist()
    picks = torch.rand(len(drawn), generator=generator).tolist()
    return torch.tensor(
        [concepts[place][int(pick * len(concepts[place]))] for place, pick in zip(drawn, picks, strict=True)]
    )


@torch.inference_mode()
def measure_retrieval(
    model: nn.Module, images: Tensor, texts: Tensor, concepts: list[list[int]]
) -> dict[str, float | int]:
    """How often a held-out picture finds its own caption among all held-out ones, first or among five, and back.

    One pair represents a concept, in the first template; a tie counts as not found.
    """
    chosen = [members[0] for members in concepts]
    figures: dict[str, float | int] = {"n": len(chosen)}
    if chosen:
        scores = F.normalize(model.visual.head(images[chosen]), dim=-1) @ texts[chosen, 0].T
        for name, table in (("image_to_text", scores), ("text_to_image", scores.T)):
            rank = (table >= table.diag()[:, None]).sum(dim=1)
            figures |= {f"{name}_r{k}": float((rank <= k).float().mean()) for k in (1, 5)}
    return figures
