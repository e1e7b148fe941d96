"""One thin command line for each rule: read the config and the inputs, call the package, write the outputs."""

import gc
import os
import signal

# Before anything imports tqdm or tokenizers: progress bars fill a log file, so stages write lines instead, and the
# tokenizer's own threads would compete with torch's.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
    os.environ.setdefault(f"{library}_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Whoever loads a file of weights, torchvision or peft, say: tensors only, never a pickle that runs code.
os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")

if "LOGITFUSION_PARENT" in os.environ:
    # A sixth of a stage's start would be the collector, looking again and again at all that torch and transformers
    # bring; run_stage turns it on.
    gc.disable()
    # A stage that still imports ends at Ctrl-C without a traceback; run_stage takes over.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

from logitfusion.stages._gpus import lease_gpus  # noqa: E402, once Ctrl-C is heeded

lease_gpus()  # before torch counts them
