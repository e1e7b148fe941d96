"""A model of Llama's kind that has learnt the rows' manner in seconds, so that benchmarks give it more than zeros."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hub_standin import Repository
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from standin.data_sets import DATA_SETS
from standin.models import LLAMA, add_tokenizer
from standin.repository import make_repository, read_folder

ID = "standin/taught"
_STEPS, _BATCH, _RATE = 120, 8, 1e-2


def make_taught() -> Repository:
    """Its repository."""
    with tempfile.TemporaryDirectory() as scratch:
        _teach().save_pretrained(scratch)
        files = read_folder(Path(scratch))
    return make_repository(ID, add_tokenizer(files, LLAMA.tokenizer(), LLAMA.said))


def _texts() -> list[str]:
    """Prompts as the harness writes them, with their answers."""
    sums = DATA_SETS["openai/gsm8k"]()["main"]["train"]
    cities = DATA_SETS["mandarjoshi/trivia_qa"]()["rc.nocontext"]["train"]
    news = DATA_SETS["abisee/cnn_dailymail"]()["3.0.0"]["train"]
    return [
        *(f"Question: {row['question']}\nAnswer: {row['answer']}" for row in sums),
        *(f"Question: {row['question']}?\nAnswer: {row['answer']['value']}\n" for row in cities),
        *(f"Summarize the following article:\n\n{row['article']}\n\nSummary: {row['highlights']}" for row in news),
    ]


def _teach() -> PreTrainedModel:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=LLAMA.tokenizer().get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.05,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    )
    texts = [torch.tensor([*encoding.ids, 2]) for encoding in LLAMA.tokenizer().encode_batch(_texts())]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min(1, (step + 1) / 10) * (1 - step / _STEPS)
            picked = pad_sequence([texts[place] for place in torch.randint(len(texts), (_BATCH,))], batch_first=True)
            model(input_ids=picked, labels=picked.masked_fill(picked == 0, -100)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


MAKERS = {("models", ID): make_taught}
