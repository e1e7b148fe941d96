"""The subcommands of ``logitfusion``: each module has ``run(arguments)``."""

import os

# Whoever loads a file of weights, torchvision or peft, say: tensors only, never a pickle that runs code.
os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
