"""The logits of several models, used three ways.

* ``logitfusion.fusion``: dynamic logits fusion, small experts steer a larger model while it decodes.
* ``logitfusion.distill``: graph-on-logits distillation, several teachers of any vocabulary teach one student.
* ``logitfusion.models``, ``logitfusion.tasks``, ``logitfusion.evaluate``: what every method shares.

Nothing in this package knows about Snakemake; ``logitfusion.stages`` holds one command line per rule.
"""

__version__ = "0.1.0"
