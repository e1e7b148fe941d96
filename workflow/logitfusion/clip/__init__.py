"""AMU-Tuning of CLIP and its rivals: few-shot classification on frozen features (arXiv 2404.08958)."""

from logitfusion.clip.amu import AMUHead
from logitfusion.clip.head_file import load_head, save_head
from logitfusion.clip.heads import Support
from logitfusion.clip.methods import fit_method
from logitfusion.clip.uncertainty import uncertainty

__all__ = ["AMUHead", "Support", "fit_method", "load_head", "save_head", "uncertainty"]
