"""A small Llama for an engine without a GPU: `python bench/tiny_llama.py FOLDER [LAYERS HIDDEN]`, in its environment.

It has a configuration and a tokenizer but no weights, for `--load-format dummy`: its answers are nonsense. With the two
layers of 128 that it has by default, the engine's HTTP server takes longer for a token than its model does.
"""

import json
import random
import sys
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HEAD: Final = 64
LONGEST: Final = 2048  # tokens of prompt and answer
SPECIAL: Final = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
WORDS: Final = ("river", "meter", "house", "power", "price", "job", "queue", "answer", "what", "is", "the", "of", "a")
MESSAGE: Final = "<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}"
TEMPLATE: Final = "{{ bos_token }}{% for m in messages %}" + MESSAGE + "{% endfor %}<|assistant|>"


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    draw = random.Random(1)  # noqa: S311  text to train on
    text = (" ".join(draw.choices(WORDS, k=20)) for _ in range(1000))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=1000, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    )
    return made


def main(folder: Path, layers: int = 2, hidden: int = 128) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD,
        "num_key_value_heads": 1,
        "head_dim": HEAD,
        "vocab_size": made.get_vocab_size(),
        "max_position_embeddings": LONGEST,
        "bos_token_id": SPECIAL.index("<s>"),
        "eos_token_id": SPECIAL.index("</s>"),
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": LONGEST,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
