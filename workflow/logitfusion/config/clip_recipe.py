"""How the MLP between the towers of a built CLIP is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from logitfusion.config.section import Batch, Count, NonNegative, Positive, Prompt, Section, Seed, Some, number


class ClipRecipe(Section):
    """How the MLP between the towers is trained."""

    steps: Count = 100
    """Steps of AdamW."""
    batch_size: Annotated[Batch, Field(ge=2)] = 256
    """Pairs of a step, each of another concept; at most all that are trained on."""
    learning_rate: Positive = 1e-3
    """Peak, after a linear warm-up over a tenth of the steps, then cosine to 0."""
    weight_decay: NonNegative = 0.1
    """AdamW's, of the matrices only."""
    dropout: number(ge=0, le=0.99) = 0.6
    """Of the MLP's hidden layer; without much of it a few thousand pairs are memorised."""
    templates: Some[Prompt] = ("{}",)
    """Sentences around a caption; each pair is seen with each of them, drawn anew every time."""
    held_out: number(ge=0, le=0.9) = 0.1
    """Share of the concepts that is left out of the training, for the retrieval figures."""
    image_size: Annotated[int, Field(ge=32, le=1024)] = 128
    """Side of what the image tower reads (pixels)."""
    context_length: Annotated[int, Field(ge=4, le=4096)] = 48
    """Texts are cut to this length (tokens)."""
    seed: Seed = 0
    """Held-out concepts, the MLP's first values, the batches and the dropout."""
