"""The embedded model as a Hugging Face folder, which vLLM reads; runs in the peer's environment and knows no rcjax.

.venv-peer/bin/python benchmarks/peer_model.py MODEL.gguf FOLDER
"""

import argparse
import shutil
from pathlib import Path


def export(gguf: Path, folder: Path) -> None:
    """Writes config and float32 weights, expanded by `transformers`; `folder` exists only once it is complete."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None  # the weights are expanded, and are saved as such
    del model.config.quantization_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    partial.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    export(args.gguf, args.folder)


if __name__ == "__main__":
    main()
