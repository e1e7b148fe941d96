"""Features of images, cached by content."""

from logitfusion.config.clip import Clip

BATCH_SIZE: int = Clip.model_fields["batch_size"].default  # views that are encoded at a time
